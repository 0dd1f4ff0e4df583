/*
 * EFI driver that arms the Intel 6300ESB watchdog and lets it run.
 *
 * systemd-boot starts the drivers in /EFI/systemd/drivers/ before it chooses a
 * boot entry. From here on a hang anywhere (boot loader, kernel before its own
 * watchdog driver, initramfs) ends in a reset, and so in a failed try. Linux's
 * i6300esb driver takes the running watchdog over.
 *
 * Registers: "Intel 6300ESB I/O Controller Hub Datasheet", chapter 16.
 * Interfaces: UEFI Specification 2.10, section 14.4.
 *
 * TIMEOUT_SECONDS is given by the build (the board's watchdog timeout).
 */

#include "efi.h"

/* EFI_PCI_IO_PROTOCOL. width: 0, 1 or 2 for 8, 16 or 32 bits. */
struct efi_pci_io {
	void *poll_memory, *poll_io;
	void *memory_read;
	efi_status(EFIAPI *memory_write)(struct efi_pci_io *, uint32 width, uint8 bar,
					 uint64 offset, uint64 count, void *buffer);
	void *io_read, *io_write;
	efi_status(EFIAPI *config_read)(struct efi_pci_io *, uint32 width, uint32 offset,
					uint64 count, void *buffer);
	efi_status(EFIAPI *config_write)(struct efi_pci_io *, uint32 width, uint32 offset,
					 uint64 count, void *buffer);
	void *copy_memory, *map, *unmap, *allocate_buffer, *free_buffer, *flush, *get_location;
	efi_status(EFIAPI *attributes)(struct efi_pci_io *, uint32 operation, uint64 attributes,
				       uint64 *result);
};

#define WIDTH_8 0
#define WIDTH_16 1
#define WIDTH_32 2
#define ATTRIBUTES_ENABLE 2
#define ATTRIBUTE_MEMORY 0x0200

static const struct efi_guid pci_io_guid = {
	0x4cf5b200, 0x68b8, 0x4ca5, {0x9e, 0xec, 0xb2, 0x3e, 0x3f, 0x50, 0x02, 0x9a}};

/* 6300ESB: device id 0x25ab, vendor 0x8086. */
#define I6300ESB_ID 0x25ab8086u

/* PCI configuration space */
#define CONFIG_REGISTER 0x60 /* WDT configuration */
#define LOCK_REGISTER 0x68   /* WDT lock */
#define INTERRUPT_NONE 0x0003 /* stage 1 raises no interrupt; 1 kHz clock; reboot pin enabled */
#define LOCK_ENABLE 0x02      /* run; not locked, so that Linux may take over */

/* Memory BAR 0 */
#define TIMER1_REGISTER 0x00
#define TIMER2_REGISTER 0x04
#define RELOAD_REGISTER 0x0c
#define RELOAD 0x0100
#define TIMEOUT_FLAG 0x0200 /* "the last reset was mine": written as 1 it is cleared */
#define UNLOCK1 0x80
#define UNLOCK2 0x86

/*
 * The watchdog counts down timer 1, then timer 2, then resets. One tick of the
 * preload value is about 1 ms (the counter is the value shifted left by 15, on the
 * 33 MHz clock), so each of the two stages gets half the timeout.
 */
#define STAGE_TICKS ((uint32)(TIMEOUT_SECONDS) * 1024u / 2u)
#if !defined(TIMEOUT_SECONDS) || TIMEOUT_SECONDS < 1 || TIMEOUT_SECONDS > 1023 * 2
#error "TIMEOUT_SECONDS must fit the 20-bit stage registers"
#endif

/* Every write to the registers must follow this pair of writes directly. */
static void write_unlocked(struct efi_pci_io *pci, uint32 width, uint64 offset, uint32 value)
{
	uint16 first = UNLOCK1, second = UNLOCK2;

	pci->memory_write(pci, WIDTH_16, 0, RELOAD_REGISTER, 1, &first);
	pci->memory_write(pci, WIDTH_16, 0, RELOAD_REGISTER, 1, &second);
	pci->memory_write(pci, width, 0, offset, 1, &value); /* little endian: low bytes first */
}

static efi_status arm(struct efi_pci_io *pci)
{
	uint16 config = INTERRUPT_NONE;
	uint8 stop = 0, run = LOCK_ENABLE;
	efi_status status;

	/* The firmware leaves memory decoding off for devices without a driver. */
	status = pci->attributes(pci, ATTRIBUTES_ENABLE, ATTRIBUTE_MEMORY, 0);
	if (status)
		return status;
	status = pci->config_write(pci, WIDTH_16, CONFIG_REGISTER, 1, &config);
	if (status)
		return status;
	/* Stopped while its stages change; load both; only then let it run. */
	pci->config_write(pci, WIDTH_8, LOCK_REGISTER, 1, &stop);
	write_unlocked(pci, WIDTH_32, TIMER1_REGISTER, STAGE_TICKS);
	write_unlocked(pci, WIDTH_32, TIMER2_REGISTER, STAGE_TICKS);
	write_unlocked(pci, WIDTH_16, RELOAD_REGISTER, RELOAD);
	return pci->config_write(pci, WIDTH_8, LOCK_REGISTER, 1, &run);
}

efi_status EFIAPI efi_main(efi_handle image, struct efi_system_table *system)
{
	struct efi_boot_services *boot = system->boot_services;
	efi_handle *handles = 0;
	uint64 count = 0;
	uint64 i;

	(void)image;
	if (boot->locate_handle_buffer(BY_PROTOCOL, &pci_io_guid, 0, &count, &handles))
		return EFI_ABORTED;
	for (i = 0; i < count; i++) {
		struct efi_pci_io *pci = 0;
		uint32 id = 0;

		if (boot->handle_protocol(handles[i], &pci_io_guid, (void **)&pci))
			continue;
		if (pci->config_read(pci, WIDTH_32, 0, 1, &id) || id != I6300ESB_ID)
			continue;
		if (arm(pci) == 0)
			say(system, L"orbital: firmware: watchdog armed\r\n");
		else
			say(system, L"orbital: firmware: watchdog NOT armed\r\n");
	}
	/*
	 * The work is done and nothing of this driver needs to stay. An error makes
	 * systemd-boot unload it, and skip reconnecting all controllers (seconds).
	 */
	return EFI_ABORTED;
}
