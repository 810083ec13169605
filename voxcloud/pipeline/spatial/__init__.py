"""From each visit's own space into that of the template: anatomy of a participant, maps of a session, all together."""
