/* Lets user mode Linux 6.12 run on processors whose state is larger than it knows (AMX).
 *
 * It keeps 2,696 bytes of a process's extended state. Linux takes a state back only as a whole
 * (arch/x86/kernel/fpu/regset.c, xstateregs_set: -EFAULT for another size), so what is beyond stays
 * here as it was last read. Preloaded; nothing of the C library but errno.
 */

#define SYS_ptrace 101
#define PTRACE_PEEKTEXT 1
#define PTRACE_PEEKUSER 3
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE 0x202

extern int *__errno_location(void);

struct vector {
	unsigned char *base;
	unsigned long size;
};

static unsigned char whole[1 << 16];

static long call(long request, long pid, long address, void *data)
{
	register void *fourth __asm__("r10") = data;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_ptrace), "D"(request), "S"(pid), "d"(address), "r"(fourth)
			 : "rcx", "r11", "memory");
	if (result < 0) {
		*__errno_location() = -result;
		return -1;
	}
	return result;
}

long ptrace(long request, long pid, long address, void *data)
{
	struct vector all = {whole, sizeof(whole)};
	struct vector *known = data;
	long value = 0, result;

	if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
		/* The C library returns what the system call stores. */
		result = call(request, pid, address, &value);
		if (result == 0)
			*__errno_location() = 0;
		return result < 0 ? result : value;
	}
	if (address != NT_X86_XSTATE || (request != PTRACE_GETREGSET && request != PTRACE_SETREGSET))
		return call(request, pid, address, data);
	if (call(PTRACE_GETREGSET, pid, address, &all) < 0)
		return -1;
	if (known->size > all.size)
		known->size = all.size;
	for (unsigned long at = 0; at < known->size; at++) {
		if (request == PTRACE_GETREGSET)
			known->base[at] = whole[at];
		else
			whole[at] = known->base[at];
	}
	return request == PTRACE_GETREGSET ? 0 : call(PTRACE_SETREGSET, pid, address, &all);
}
