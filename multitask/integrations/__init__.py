"""Optional libraries, one file each, reached only from doors."""
