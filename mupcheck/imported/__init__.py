"""Numbers that others measured, as the tables that the judges read: nothing that is not said is made up."""
