# Part of u_boot.cmd, on boards with a rescue system: counts a start that takes no try, in the start
# record (recovery/starts.py). The initramfs of the slot takes the count back. A kernel that never
# gets there is counted by nobody else: after five, rescue starts first. One byte is changed. A
# record that is not valid, or cannot be written, leaves things as they are.
# Read anew: what step 2 read has been written over by `env export`.
mw.b @starts@ 0 400
setexpr orbital_block ${orbital_block0} + 400
setenv orbital_end
if @interface@ read @starts@ ${orbital_block} 1; then
	env import -t @starts@ 200 orbital_end
	setexpr.b orbital_loads *@starts_loads@
	if test "x${orbital_end}" = x1; then
		for orbital_number in 30 31 32 33 34; do
			if test ${orbital_loads} = ${orbital_number}; then
				setexpr orbital_digit ${orbital_number} + 1
				mw.b @starts_loads@ ${orbital_digit}
				@interface@ write @starts@ ${orbital_block} 1
			fi
		done
		for orbital_number in 35 36 37 38 39; do
			if test ${orbital_loads} = ${orbital_number}; then
				echo "orbital: firmware: no slot has reached its initramfs for 5 starts"
				orbital_starts="rescue ${orbital_starts}"
			fi
		done
	fi
fi
