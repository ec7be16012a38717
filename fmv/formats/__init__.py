"""How the admin writes moments: FORMAT_MODULE_PATH. Django asks here by language."""
