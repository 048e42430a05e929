# inside.sh probe|translate ROOT WORK: runs in mount, process and network namespaces.
what=$1 root=$2 work=$3
for dir in dev run tmp var/cache/libvirt var/lib/libvirt; do
  mkdir -p "$root/$dir"
  mount -t tmpfs none "$root/$dir"
done
mount -t proc none "$root/proc"
mkdir -p "$root/dev/net" "$root/dev/pts" "$root/dev/shm" "$root/tmp/domains"
mount --bind "$work" "$root/tmp/domains"
for node in null zero random urandom net/tun; do
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
# libvirt checks that KVM exists. No program opens it.
: >"$root/dev/kvm"
chmod 666 "$root/dev/kvm"
touch -d @0 "$root/dev/kvm"
ip link set lo up
ip link add br0 type bridge
cat >"$root/tmp/run" <<'END'
set -eu
cache=/var/cache/libvirt/qemu/capabilities
wait_for() { for _ in $(seq 600); do ! [ -S /run/libvirt/libvirt-sock ] || return 0; sleep 0.1; done; echo "libvirtd did not listen" >&2; return 1; }
start() { libvirtd --timeout 120 >/tmp/libvirtd.out 2>&1 & daemon=$!; wait_for; }
if [ "$1" = translate ]; then
  mkdir -p $cache
  cp /tmp/domains/forged.xml "$cache/$(cat /tmp/domains/name)"
fi
start
if [ "$1" = probe ]; then
  virsh -q domcapabilities --virttype qemu --emulatorbin /usr/bin/qemu-system-x86_64 --arch x86_64 >/dev/null
  name=$(grep -l '<arch>x86_64</arch>' $cache/*.xml)
  basename "$name" >/tmp/domains/name
  cp "$name" /tmp/domains/probed.xml
else
  for domain in /tmp/domains/[0-9]*.xml; do
    virt-xml-validate "$domain" domain >&2
    virsh -q domxml-to-native qemu-argv "$domain" >"${domain%.xml}.argv" || { cat /tmp/libvirtd.out; exit 1; }
  done
fi
kill $daemon
wait $daemon || true
END
chroot "$root" bash /tmp/run "$what"
