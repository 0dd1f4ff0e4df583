"""Boot control: one file per boot loader, one protocol (`recovery.slots.BootControl`)."""
