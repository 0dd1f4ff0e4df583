# The guest's side of qemu/shell.py. Comes into the guest as a systemd
# credential, never as part of an image. Needs sh, coreutils and nothing else.
#
# host to guest: a line "WHO", or a line "RUN SESSION ID SECONDS LENGTH" and
#                LENGTH bytes of a shell script
# guest to host: "HELLO SESSION BOOT_ID"; for each script "BEGIN SESSION ID",
#                its output in base64 lines, "END SESSION ID EXITCODE"
#
# SESSION is new for each start of this program, so nothing that was meant for
# an earlier one is ever run or believed.
port=
for entry in /sys/class/virtio-ports/*; do
    name=
    [ -e "$entry/name" ] && read -r name <"$entry/name"
    [ "$name" = orbital.test ] && port=/dev/${entry##*/}
done
[ -n "$port" ] && [ -e "$port" ] || exit 75
exec 3<>"$port" || exit 75

read -r boot </proc/sys/kernel/random/boot_id
session=${boot%%-*}.$$
work=/run/orbital-test
mkdir -p "$work"
cd /

printf '\nHELLO %s %s\n' "$session" "$boot" >&3
while read -r verb told id seconds length rest <&3; do
    case $verb in
    WHO) printf '\nHELLO %s %s\n' "$session" "$boot" >&3 ;;
    RUN)
        [ "$told" = "$session" ] || continue
        head -c "$length" <&3 >"$work/script"
        timeout -k 5 "$seconds" sh "$work/script" >"$work/output" 2>&1 </dev/null 3>&-
        code=$?
        { printf 'BEGIN %s %s\n' "$session" "$id" && base64 "$work/output" &&
            printf 'END %s %s %s\n' "$session" "$id" "$code"; } >&3
        ;;
    esac
done
