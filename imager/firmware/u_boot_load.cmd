# Part of u_boot.cmd: starts the boot artifact in the partition ${orbital_label}, or comes back. Its
# header says how much of the partition it is. Every part of it has a SHA-256 hash that `source`
# and `bootm` check.
part start @disk@ ${orbital_label} orbital_start
part size @disk@ ${orbital_label} orbital_size
if @interface@ read @artifact@ ${orbital_start} 1; then
	if fdt addr @artifact@; then
		fdt header get orbital_bytes totalsize
		setexpr orbital_blocks ${orbital_bytes} + 1ff
		setexpr orbital_blocks ${orbital_blocks} / 200
		if itest ${orbital_blocks} -le ${orbital_size}; then
			if @interface@ read @artifact@ ${orbital_start} ${orbital_blocks}; then
				if source @artifact@:arguments; then
					bootm @artifact@#slot @artifact@#slot @device_tree@
				fi
			fi
		fi
	fi
fi
