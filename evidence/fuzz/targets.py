"""The table of fuzz targets: every parser that reads bytes which Orbital did not write."""

from __future__ import annotations

from delta.errors import DeltaError
from evidence.fuzz import artifacts, documents, hosts, network, records
from evidence.fuzz.target import Target

_DELTA = (DeltaError,)
_STATE = ("recovery",)
_DOCS = ("updater", "manifests", "recovery")
_FRAMES = ("delta",)
_HOST = ("imager", "manifests")

TARGETS = (
    # The state partition, /run, and what loaders keep.
    Target("state", records.state_record, "json", _STATE),
    Target("generation", records.generation_record, "json", _STATE),
    Target("history", records.history_lines, "lines", _STATE),
    Target("audit", records.audit_trail, "lines", _STATE),
    Target("boot-report", records.boot_report, "json", _STATE),
    Target("start-record", records.start_record, "lines", _STATE),
    Target("firmware-option", records.firmware_option, "bytes", _STATE),
    Target("gpt", records.partition_table, "bytes", _STATE, longest=32768),
    Target("device", records.device_document, "json", _STATE),
    Target("grubenv", records.grub_environment, "lines", _STATE),
    Target("ubootenv", records.uboot_environment, "bytes", _STATE),
    Target("autoboot", records.autoboot_file, "lines", _STATE),
    Target("loader-entries", records.loader_entries, "lines", _STATE),
    Target("pstore", records.kept_by_hardware, "lines", _STATE),
    Target("proc-keys", records.kernel_keys, "lines", _STATE),
    Target("systemd-bus", records.bus_message, "bytes", _STATE),
    # Boot artifacts and the firmware's FAT, as rescue looks at them.
    Target("artifact-uki", artifacts.boot_artifact("uki"), "bytes", _STATE),
    Target("artifact-cpio", artifacts.boot_artifact("cpio"), "bytes", _STATE),
    Target("artifact-fit", artifacts.boot_artifact("fit"), "bytes", _STATE),
    Target("authenticode", artifacts.program_signature, "der", _STATE),
    Target("fat", artifacts.fat_files, "bytes", _STATE, longest=65536),
    # Packages, as a device reads them.
    Target("package-manifest", records.package_manifest, "json", _STATE),
    Target("active-set", records.active_set, "json", _STATE),
    Target("layer-config", records.layer_config, "json", _STATE),
    Target("layer-schema", records.layer_schema, "bytes", _STATE),
    Target("slice-schema", records.slice_schema, "json", _STATE),
    Target("capabilities", records.capability_policy, "json", _STATE),
    Target("publishers", records.publisher_list, "json", _STATE),
    Target("signature", records.signature, "der", _STATE),
    # What a repository publishes, and the updater's own files.
    Target("tuf", network.tuf_metadata, "json", ("updater", "tuf"), seconds=5),
    Target("http", network.http_answer, "lines", ("updater",), seconds=8),
    Target("index", documents.os_index, "json", _DOCS),
    Target("releases", documents.os_releases, "json", _DOCS),
    Target("delta-document", documents.os_delta, "json", _DOCS),
    Target("slice-map", documents.slice_map, "bytes", _DOCS),
    Target("package-releases", documents.package_releases, "json", _DOCS),
    Target("package-delta", documents.package_delta, "json", _DOCS),
    Target("journal", documents.install_journal, "json", _DOCS),
    Target("seen", documents.seen_versions, "json", _DOCS),
    Target("policy", documents.update_policy, "json", _DOCS),
    Target("usage", documents.usage_record, "json", _DOCS),
    Target("associations", documents.registry, "json", _DOCS),
    Target("metrics-request", documents.metrics_request, "lines", _DOCS),
    # Payloads of deltas.
    Target("delta-frame", documents.frame, "bytes", _FRAMES, _DELTA),
    Target("delta-rewrite", documents.rewrite, "bytes", _FRAMES, _DELTA),
    Target("delta-inodes", documents.inode_tables, "bytes", _FRAMES, _DELTA),
    Target("delta-cluster", documents.cluster, "bytes", _FRAMES, _DELTA),
    # The build host.
    Target("deb", hosts.debian_package, "bytes", _HOST),
    Target("tar", hosts.tar_archive, "bytes", _HOST, longest=32768),
    Target("elf", hosts.program, "bytes", _HOST, seconds=5),
    Target("bzimage", hosts.kernel, "bytes", _HOST, longest=65536),
    Target("erofs", hosts.package_image, "bytes", _HOST, longest=65536),
    Target("opk", hosts.package_file, "bytes", _HOST, longest=65536),
    Target("pkcs7", hosts.pkcs7, "der", _HOST),
    Target("wheel", hosts.wheel, "bytes", _HOST),
    Target("interface", hosts.interface, "json", _HOST),
    Target("apt-sources", hosts.apt_sources, "lines", _HOST),
    Target("board", hosts.board, "lines", _HOST),
    Target("system", hosts.system, "lines", _HOST),
    Target("package", hosts.package, "lines", _HOST),
)


def find(name: str) -> Target:
    """The target of that name. Raises KeyError."""
    return {target.name: target for target in TARGETS}[name]
