"""From the results of a study to tables and one page that a person reads."""
