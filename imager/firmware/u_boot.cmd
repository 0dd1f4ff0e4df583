# U-Boot's part of Orbital: starts the slot that the record in partition @environment@ names.
# A template: imager/firmware/u_boot.py fills in what stands between two @ and drops these comments.
#
# The record: recovery/bootcontrol/ubootenv.py; the same rules as a model: tests/recovery/loaders.py.
# Numbers are hexadecimal. Values that must survive `env import -d` are variables of the shell
# (NAME=VALUE), which cannot be empty; all others are U-Boot's (setenv, setexpr), named orbital_*.
# An apostrophe is a quote to this shell even between double quotes.

@interface@ dev @device@

# 1. Both copies as they are on the disk. Zeros are not a valid copy: a failed read is a lost copy.
orbital_valid0=no
orbital_valid1=no
mw.b @copy0@ 0 @two_copies@
part start @disk@ @environment@ orbital_start0
setexpr orbital_start1 ${orbital_start0} + @copy_blocks@
@interface@ read @copy0@ ${orbital_start0} @copy_blocks@
@interface@ read @copy1@ ${orbital_start1} @copy_blocks@
setexpr.b orbital_flag0 *@copy0_flag@
setexpr.b orbital_flag1 *@copy1_flag@
# This U-Boot's own environment has no flag byte, so `env import -c` takes the copies without theirs.
cp.b @copy0@ @bare0@ 4
cp.b @copy0_data@ @bare0_data@ @data_size@
cp.b @copy1@ @bare1@ 4
cp.b @copy1_data@ @bare1_data@ @data_size@

# From here on a hang is a reset, where the board says how.
@watchdog@

@rescue@
# 2. What to write next, whichever copy counts: one write, into the other copy, with the next flag.
setexpr orbital_next0 ${orbital_flag0} + 1
setexpr orbital_next1 ${orbital_flag1} + 1
orbital_newer=0
if itest ${orbital_flag1} -gt ${orbital_flag0}; then orbital_newer=1; fi
if test ${orbital_flag0}-${orbital_flag1} = ff-0; then orbital_newer=1; fi
if test ${orbital_flag0}-${orbital_flag1} = 0-ff; then orbital_newer=0; fi
orbital_block0=${orbital_start0}
orbital_block1=${orbital_start1}
orbital_after0=${orbital_next0}
orbital_after1=${orbital_next1}
if test ${orbital_after0} = 100; then orbital_after0=0; fi
if test ${orbital_after1} = 100; then orbital_after1=0; fi

# 3. U-Boot's own environment steps aside: the record is read and written whole, with variables
# that are not ours, and nothing of either gets into the other.
env export -c -s @aside_size@ @aside@
if env import -d -c @bare0@ @bare_size@; then orbital_valid0=yes; fi
if env import -d -c @bare1@ @bare_size@; then orbital_valid1=yes; fi
orbital_current=none
if test ${orbital_valid0} = yes; then orbital_current=0; fi
if test ${orbital_valid1} = yes; then orbital_current=1; fi
if test ${orbital_valid0}-${orbital_valid1} = yes-yes; then orbital_current=${orbital_newer}; fi
if test ${orbital_current} = none; then echo "orbital: firmware: no valid record, beginning again"; fi

# An empty environment, the defaults, the record over them ("NAME=" in it deletes a default).
# Without a valid copy the defaults are the record, and copy 0 is written; where there is a rescue
# system, which knows what had failed, the record has no slot.
mw.b @export@ 0 10
env import -d -b @export@ 10
setenv BOOT_ORDER A B
setenv BOOT_A_LEFT 3
setenv BOOT_B_LEFT 3
orbital_block=${orbital_block0}
orbital_flag=1
@lost@
if test ${orbital_current} = 0; then
	env import -c @bare0@ @bare_size@
	orbital_block=${orbital_block1}
	orbital_flag=${orbital_after0}
fi
if test ${orbital_current} = 1; then
	env import -c @bare1@ @bare_size@
	orbital_flag=${orbital_after1}
fi

# 4. The first slot of the order that is good or has tries left.
orbital_choice=none
orbital_order=none
orbital_goods=none
for orbital_name in ${BOOT_ORDER}; do
	orbital_slot=none
	if test ${orbital_name} = A; then
		orbital_slot=a
		orbital_good="x${BOOT_A_GOOD}"
		orbital_left="x${BOOT_A_LEFT}"
	fi
	if test ${orbital_name} = B; then
		orbital_slot=b
		orbital_good="x${BOOT_B_GOOD}"
		orbital_left="x${BOOT_B_LEFT}"
	fi
	if test ${orbital_slot} != none; then
		if test "${orbital_order}" = none; then
			orbital_order=${orbital_slot}
		else
			orbital_order="${orbital_order} ${orbital_slot}"
		fi
		if test "${orbital_good}" = x1; then
			if test "${orbital_goods}" = none; then
				orbital_goods=${orbital_slot}
			else
				orbital_goods="${orbital_goods} ${orbital_slot}"
			fi
		fi
		# One try less; anything but 1 to 7 is no try.
		orbital_taken=none
		orbital_less=0
		for orbital_number in 1 2 3 4 5 6 7; do
			if test "${orbital_left}" = x${orbital_number}; then orbital_taken=${orbital_less}; fi
			orbital_less=${orbital_number}
		done
		if test ${orbital_choice} = none; then
			if test "${orbital_good}" = x1; then
				orbital_choice=${orbital_slot}
				orbital_counted=no
			elif test ${orbital_taken} != none; then
				# The try is used before it starts. A power cut in the write leaves the
				# copy before it; a disk that refuses it leaves the next slot to start.
				setenv BOOT_${orbital_name}_LEFT ${orbital_taken}
				if env export -c -s @bare_size@ @export@; then
					cp.b @export@ @out@ 4
					mw.b @out_flag@ ${orbital_flag}
					cp.b @export_data@ @out_data@ @data_size@
					if @interface@ write @out@ ${orbital_block} @copy_blocks@; then
						orbital_choice=${orbital_slot}
						orbital_counted=yes
						echo "orbital: firmware: slot ${orbital_slot} is on trial, ${orbital_taken} tries left"
					fi
				fi
			fi
		fi
	fi
done
env import -d -c @aside@ @aside_size@

# 5. Which slots to start, one after the other until one does. A counted one alone: that it
# cannot start is a failed try. After the good ones, or with none left, those of the order, whatever
# they are: never give up. A rescue system comes before these: they may have failed on this device.
if test "${orbital_order}" = none; then orbital_order="a b"; fi
orbital_starts="@rescue_word@${orbital_order}"
if test ${orbital_choice} != none; then
	orbital_starts=${orbital_choice}
	if test ${orbital_counted} = no; then
		orbital_starts="${orbital_goods} @rescue_word@${orbital_order}"
@count@
	fi
fi

# 6. One after the other.
for orbital_slot in ${orbital_starts}; do
	echo "orbital: firmware: starting slot ${orbital_slot}"
	orbital_label=@boot_a@
	if test ${orbital_slot} = b; then orbital_label=@boot_b@; fi
	if test ${orbital_slot} = rescue; then orbital_label=@rescue_label@; fi
@load@
	echo "orbital: firmware: cannot start slot ${orbital_slot}"
done
reset
