#!/bin/sh
# onDefineDomain --vmi JSON --domain XML: prints the domain with kernel hashes, so
# that the launch digest covers kernel, initramfs and command line. It refuses a
# domain without SEV-SNP or without a kernel of its own.
set -eu
domain=
while [ $# -gt 0 ]; do
  case $1 in
  --domain) domain=$2; shift 2 ;;
  *) shift ;;
  esac
done
refuse() { echo "kernel hashes: refused: $1" >&2; exit 1; }
count() { printf '%s' "$domain" | grep -o "$1" | grep -c . || true; }
[ "$(count '<launchSecurity[ >]')" = 1 ] || refuse "want exactly one launchSecurity"
[ "$(count "<launchSecurity[^>]* type=[\"']sev-snp[\"']")" = 1 ] || refuse "launchSecurity is not of type sev-snp"
[ "$(count '<kernel>[^<]')" = 1 ] || refuse "there is no kernel to measure"
[ "$(count '<initrd>[^<]')" = 1 ] || refuse "there is no initramfs to measure"
[ "$(count 'kernelHashes')" = 0 ] || refuse "kernelHashes is there already"
printf '%s\n' "$domain" | sed 's/<launchSecurity /<launchSecurity kernelHashes="yes" /'
