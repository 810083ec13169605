"""Maps of one session, from its raw images to its derivatives: the step ``mpm-maps`` and its parts."""
