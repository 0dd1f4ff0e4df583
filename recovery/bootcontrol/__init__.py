"""One file for each boot loader, behind the BootControl protocol."""
