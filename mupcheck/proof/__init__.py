"""Can the code and the judge be trusted: identities that hold for every table, and planted faults."""
