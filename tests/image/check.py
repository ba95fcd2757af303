"""What lies in the image, and what it does in a container that may write nowhere but to a volume. `tests/image/run` builds the image,
and gives its name as IMAGE and the commit it is of as REVISION."""

import gzip
import json
import os
import pathlib
import platform
import re
import stat
import subprocess
import sys
import tempfile
import time
import unittest

IMAGE = os.environ["IMAGE"]
ARCHITECTURE = IMAGE.rsplit(":", 1)[1]
MACHINE, ELF_MACHINE = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}[ARCHITECTURE]
SIZE_MAX = 40_000_000
USER = 65532
BINARY = "/usr/local/bin/minitoolstream"

# As strict as the manifests, and without a network but its own loopback. The limits are below those of any machine.
CONFINED = ["--network=none", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all"]
CONFINED += ["--security-opt=no-new-privileges", "--ulimit=nofile=4096:4096", "--ulimit=nproc=1024:1024"]

# What this machine cannot run is run by QEMU, which needs nothing in the image.
FOREIGN = platform.machine() != MACHINE
QEMU = f"/usr/bin/qemu-{MACHINE}-static"
EMULATION = [f"--volume={QEMU}:{QEMU}:ro", f"--entrypoint={QEMU}"] if FOREIGN else []


def run(*command):
    """What a command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}: {(done.stdout + done.stderr).decode()}")
    return done.stdout


def podman(*arguments):
    return run("podman", *arguments).decode().strip()


def container(*options, arguments):
    """What `podman run` prints."""
    program = [BINARY] if FOREIGN else []
    return podman("run", *CONFINED, *EMULATION, *options, IMAGE, *program, *arguments)


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(podman("image", "mount", IMAGE))
        cls.addClassCleanup(podman, "image", "unmount", IMAGE)
        cls.files = {f"/{path.relative_to(cls.root)}": path.lstat() for path in cls.root.rglob("*")}

    def test_nothing_but_the_broker_can_be_run(self):
        regular = {path: file.st_mode for path, file in self.files.items() if stat.S_ISREG(file.st_mode)}
        runnable = {path for path, mode in regular.items() if mode & 0o111}
        libraries = {path for path in runnable if re.fullmatch(r"/lib/[^/]+/(ld-linux-[^/]+|libc\.so\.6)", path)}
        self.assertEqual(runnable - libraries, {BINARY})

    def test_the_user_owns_the_volume_and_nothing_else(self):
        owned = {path: (file.st_uid, file.st_gid) for path, file in self.files.items() if file.st_uid or file.st_gid}
        self.assertEqual(owned, {"/data": (USER, USER)})
        modes = {path: file.st_mode for path, file in self.files.items() if not stat.S_ISLNK(file.st_mode)}
        self.assertEqual([path for path, mode in modes.items() if mode & 0o022], [], "others may write")
        self.assertEqual([path for path, mode in modes.items() if mode & (stat.S_ISUID | stat.S_ISGID)], [])

    def test_the_binary_is_for_the_architecture(self):
        header = (self.root / BINARY[1:]).read_bytes()[:20]
        self.assertEqual((header[:4], int.from_bytes(header[18:], "little")), (b"\x7fELF", ELF_MACHINE))

    def test_the_size_is_below_40_mb(self):
        [image] = json.loads(podman("image", "inspect", IMAGE))
        compressed = len(gzip.compress(run("podman", "save", IMAGE)))
        print(f"{image['Size']:,} bytes, compressed {compressed:,} ... ", end="", file=sys.stderr)
        self.assertLess(image["Size"], SIZE_MAX)

    def test_the_bill_of_materials_lists_every_crate_that_is_linked(self):
        bill = json.loads((self.root / "usr/share/sbom/minitoolstream.cdx.json").read_bytes())
        self.assertEqual(bill["bomFormat"], "CycloneDX")
        parts = [bill["metadata"]["component"], *bill["components"]]
        listed = {(part["name"], part["version"]) for part in parts}
        target = f"{MACHINE}-unknown-linux-gnu"
        tree = run("cargo", "tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}", "--target", target)
        linked = {tuple(line.split(" ")[:2]) for line in tree.decode().splitlines() if line}
        self.assertGreater(len(linked), 100)
        self.assertEqual({(name, version[1:]) for name, version in linked} - listed, set())
        # The authorities that S3 is checked by are in the binary: no file of the image lists them.
        self.assertIn("webpki-roots", {name for name, _ in listed})

    def test_scanners_find_the_packages_of_debian(self):
        self.assertIn("VERSION_CODENAME=bookworm", (self.root / "etc/os-release").read_text())
        for package in ["libc6", "libgcc-s1", "gcc-12-base"]:
            text = (self.root / "var/lib/dpkg/status.d" / package).read_text()
            self.assertIn(f"Package: {package}\n", text)
            self.assertIn(f"Architecture: {ARCHITECTURE}\n", text)
            self.assertTrue((self.root / "usr/share/doc" / package / "copyright").is_file(), package)


class Settings(unittest.TestCase):
    def test_labels_user_and_command(self):
        [image] = json.loads(podman("image", "inspect", IMAGE))
        config = image["Config"]
        self.assertEqual((image["Os"], image["Architecture"]), ("linux", ARCHITECTURE))
        self.assertEqual(config["User"], f"{USER}:{USER}")
        self.assertEqual((config["Entrypoint"], config["Cmd"]), (["minitoolstream"], ["serve"]))
        self.assertEqual(set(config["ExposedPorts"]), {"50051/tcp", "50052/tcp", "8080/tcp"})
        labels = {name: config["Labels"][f"org.opencontainers.image.{name}"] for name in ["version", "revision", "created"]}
        self.assertEqual(container("--rm", arguments=["--version"]), f"minitoolstream {labels['version']}")
        self.assertEqual(labels["revision"], os.environ["REVISION"])
        self.assertRegex(labels["created"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$")


class Broker(unittest.TestCase):
    """A container that serves, with a volume for its data."""

    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        resolver = pathlib.Path(home.name) / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        self.volume = podman("volume", "create")
        self.addCleanup(podman, "volume", "rm", self.volume)
        self.options = [f"--volume={self.volume}:/data", f"--volume={resolver}:/etc/resolv.conf:ro"]
        self.start()

    def start(self):
        self.id = container("--detach", "--add-host=listed.test:127.0.0.1", *self.options, arguments=["serve"])
        self.addCleanup(podman, "rm", "--force", "--ignore", "--time=1", self.id)
        deadline = time.monotonic() + 60
        while not self.answers():
            self.assertLess(time.monotonic(), deadline, podman("logs", self.id))
            time.sleep(0.2)

    def client(self, *arguments):
        """The binary's own command line, beside the broker."""
        return podman("exec", self.id, *([QEMU, BINARY] if FOREIGN else ["minitoolstream"]), *arguments)

    def answers(self, host="127.0.0.1"):
        try:
            return "SUBJECT" in self.client("--address", f"http://{host}:50051", "subjects").upper()
        except AssertionError:
            return False

    def stop(self):
        podman("kill", "--signal=TERM", self.id)
        return podman("wait", self.id)

    def test_messages_outlive_the_container(self):
        self.client("publish", "greetings", "--data", "hello")
        self.assertIn("hello", self.client("--output", "json", "fetch", "greetings"))
        self.assertEqual(self.stop(), "0", podman("logs", self.id))
        self.start()
        self.assertIn("hello", self.client("--output", "json", "fetch", "greetings"))
        self.assertEqual(self.stop(), "0", podman("logs", self.id))

    def test_it_listens_beyond_the_loopback_address(self):
        self.assertTrue(self.answers("127.0.0.2"))

    def test_names_are_resolved_by_the_hosts_file_and_by_dns(self):
        self.assertTrue(self.answers("listed.test"))
        self.assertFalse(self.answers("served.test"), "nobody answers yet")
        inside = ["nsenter", "--net", "--target", podman("inspect", "--format={{.State.Pid}}", self.id)]
        script = pathlib.Path(__file__).with_name("names.py")
        server = subprocess.Popen([*inside, sys.executable, "-B", script, "served.test"], stdout=subprocess.PIPE)
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        self.assertEqual(server.stdout.readline(), b"ready\n")
        self.assertTrue(self.answers("served.test"))
        self.assertFalse(self.answers("unknown.test"))


class NoVolume(unittest.TestCase):
    def test_a_broker_without_a_place_for_its_data_says_so(self):
        with self.assertRaisesRegex(AssertionError, "(?s)data.*[Rr]ead-only file system"):
            container("--rm", arguments=["serve"])


if __name__ == "__main__":
    unittest.main()
