/*
 * EFI driver that counts starts, and has systemd-boot start the rescue system after too many.
 *
 * systemd-boot starts the drivers in /EFI/systemd/drivers/ before it reads which entry it is to
 * start once. So each start counts one up here, and early boot takes the count back: a kernel
 * that never gets there is counted by nobody else. The variable (recovery/bootcontrol/loads.py)
 * is two bytes: the count, and from which count on rescue is started.
 *
 * Nothing is counted where the variable is absent: Linux makes it, and so has shown that it can
 * take counts back.
 */

#include "efi.h"

#define SIZE 2
#define ASKED 255 /* in the place of the count: this start was given to rescue */

static const uint16 loads_name[] = L"OrbitalLoads";
static const struct efi_guid loads_vendor = {
	0xe5347d46, 0xa09c, 0x4179, {0x8c, 0x47, 0x66, 0xd1, 0x70, 0x44, 0x18, 0x48}};

/* The Boot Loader Interface: https://systemd.io/BOOT_LOADER_INTERFACE/ */
static const uint16 one_shot_name[] = L"LoaderEntryOneShot";
static const uint16 rescue_entry[] = L"orbital-rescue.conf";
static const struct efi_guid loader_vendor = {
	0x4a67b082, 0x0a4c, 0x41cf, {0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f}};

efi_status EFIAPI efi_main(efi_handle image, struct efi_system_table *system)
{
	struct efi_runtime_services *runtime = system->runtime_services;
	uint8 value[SIZE], count, most;
	uint32 attributes = 0;
	uint64 size = SIZE;

	(void)image;
	if (runtime->get_variable(loads_name, &loads_vendor, &attributes, &size, value) ||
	    size != SIZE)
		return EFI_ABORTED;
	/* After a rescue that did not come the slots have their turn again. */
	count = value[0] == ASKED ? 0 : value[0];
	most = value[1];
	if (most == 0 || most == ASKED)
		return EFI_ABORTED;
	if (count < most) {
		value[0] = count + 1;
	} else {
		/* The wish first: a power cut here, and the next start asks once more. */
		if (runtime->set_variable(one_shot_name, &loader_vendor, LASTING,
					  sizeof(rescue_entry), rescue_entry))
			return EFI_ABORTED;
		value[0] = ASKED;
		say(system, L"orbital: firmware: no slot has reached early boot for too many "
			    L"starts, starting rescue\r\n");
	}
	runtime->set_variable(loads_name, &loads_vendor, LASTING, SIZE, value);
	/* Nothing of this driver needs to stay; see i6300esb.c. */
	return EFI_ABORTED;
}
