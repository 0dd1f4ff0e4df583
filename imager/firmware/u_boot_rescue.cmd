# Part of u_boot.cmd, on boards with a rescue system: starts it when it is asked for.
#
# The start record (recovery/starts.py) asks: in it, the wish or an action that is not done. The
# count of askings is one byte, written before rescue starts: three times without its coming, and
# the slots have their turn. A disk that refuses the write is no wish. Or the button asks.
orbital_asking=no
mw.b @starts@ 0 400
setexpr orbital_block ${orbital_start0} + 400
setenv orbital_next
setenv orbital_action
setenv orbital_asked
setenv orbital_end
if @interface@ read @starts@ ${orbital_block} 1; then
	# Only these: what else lies there must not become a variable of this script.
	env import -t @starts@ 200 orbital_asked orbital_next orbital_action orbital_end
	if test "x${orbital_end}-x${orbital_next}" = x1-xrescue; then orbital_asking=yes; fi
	if test "x${orbital_end}-x${orbital_action}" = x1-xreset; then orbital_asking=yes; fi
	if test "x${orbital_end}-x${orbital_action}" = x1-xerase; then orbital_asking=yes; fi
fi
if test ${orbital_asking} = yes; then
	orbital_digit=none
	if test "x${orbital_asked}" = x0; then orbital_digit=31; fi
	if test "x${orbital_asked}" = x1; then orbital_digit=32; fi
	if test "x${orbital_asked}" = x2; then orbital_digit=33; fi
	orbital_asking=no
	if test ${orbital_digit} != none; then
		mw.b @starts_asked@ ${orbital_digit}
		if @interface@ write @starts@ ${orbital_block} 1; then orbital_asking=yes; fi
	fi
fi
@button@
if test ${orbital_asking} = yes; then
	echo "orbital: firmware: starting the rescue system"
	orbital_label=@rescue_label@
@load@
	echo "orbital: firmware: cannot start the rescue system"
fi
