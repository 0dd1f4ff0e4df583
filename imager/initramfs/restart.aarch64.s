/*
 * restart ARGUMENT: reboot(2) with an argument for the firmware, which busybox has no applet for.
 * The caller has written what has to last. Returns with status 1 where it was refused.
 *
 * Numbers: include/uapi/linux/reboot.h, include/uapi/asm-generic/unistd.h.
 */
	.globl	_start
_start:
	ldr	x3, [sp, #16]		// argv[1]
	cbz	x3, 1f
	movz	w0, #0xdead		// LINUX_REBOOT_MAGIC1
	movk	w0, #0xfee1, lsl #16
	movz	w1, #0x1969		// LINUX_REBOOT_MAGIC2
	movk	w1, #0x2812, lsl #16
	movz	w2, #0xc3d4		// LINUX_REBOOT_CMD_RESTART2
	movk	w2, #0xa1b2, lsl #16
	mov	x8, #142		// reboot
	svc	#0
1:	mov	x0, #1
	mov	x8, #93			// exit
	svc	#0
