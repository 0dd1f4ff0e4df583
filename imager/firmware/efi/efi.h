/*
 * What the EFI drivers here need of the UEFI Specification 2.10, sections 4.2 to 4.5 and 12.4.
 *
 * Only what is called has a type. Built without any other headers or libraries; see
 * imager/firmware/efi_driver.py.
 */

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef uint64 efi_status;
typedef void *efi_handle;

#if defined(__x86_64__)
#define EFIAPI __attribute__((ms_abi))
#else
#define EFIAPI
#endif

#define EFI_ERROR(code) (0x8000000000000000ull | (code))
#define EFI_ABORTED EFI_ERROR(21)
#define BY_PROTOCOL 2

struct efi_guid {
	uint32 a;
	uint16 b, c;
	uint8 d[8];
};

struct efi_table_header {
	uint64 signature;
	uint32 revision, header_size, crc32, reserved;
};

struct efi_boot_services {
	struct efi_table_header header;
	void *raise_tpl, *restore_tpl;
	void *allocate_pages, *free_pages, *get_memory_map, *allocate_pool, *free_pool;
	void *create_event, *set_timer, *wait_for_event, *signal_event, *close_event, *check_event;
	void *install_protocol, *reinstall_protocol, *uninstall_protocol;
	efi_status(EFIAPI *handle_protocol)(efi_handle, const struct efi_guid *, void **);
	void *reserved, *register_protocol_notify, *locate_handle, *locate_device_path;
	void *install_configuration_table;
	void *load_image, *start_image, *exit, *unload_image, *exit_boot_services;
	void *get_next_monotonic_count, *stall, *set_watchdog_timer;
	void *connect_controller, *disconnect_controller;
	void *open_protocol, *close_protocol, *open_protocol_information;
	void *protocols_per_handle;
	efi_status(EFIAPI *locate_handle_buffer)(uint32 how, const struct efi_guid *, void *key,
						 uint64 *count, efi_handle **handles);
};

/* Attributes of a variable that lasts: non-volatile, boot service access, runtime access. */
#define LASTING 7

struct efi_runtime_services {
	struct efi_table_header header;
	void *get_time, *set_time, *get_wakeup_time, *set_wakeup_time;
	void *set_virtual_address_map, *convert_pointer;
	efi_status(EFIAPI *get_variable)(const uint16 *name, const struct efi_guid *vendor,
					 uint32 *attributes, uint64 *size, void *data);
	void *get_next_variable_name;
	efi_status(EFIAPI *set_variable)(const uint16 *name, const struct efi_guid *vendor,
					 uint32 attributes, uint64 size, const void *data);
};

struct efi_text_output {
	void *reset;
	efi_status(EFIAPI *output_string)(struct efi_text_output *, const uint16 *);
};

struct efi_system_table {
	struct efi_table_header header;
	uint16 *firmware_vendor;
	uint32 firmware_revision;
	efi_handle console_in_handle;
	void *console_in;
	efi_handle console_out_handle;
	struct efi_text_output *console_out;
	efi_handle standard_error_handle;
	void *standard_error;
	struct efi_runtime_services *runtime_services;
	struct efi_boot_services *boot_services;
};

static void say(struct efi_system_table *system, const void *text)
{
	system->console_out->output_string(system->console_out, text);
}
