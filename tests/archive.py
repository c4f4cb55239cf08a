"""A PACS for the tests: Orthanc on loopback, a line to it that can be cut, and an archive of pynetdicom's."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ABSENT = "needs Orthanc and its DICOMweb plugin: apt-get install orthanc orthanc-dicomweb"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Orthanc:
    """Runs while the context lasts; its data are in ``folder``."""

    def __init__(self, folder):
        self.folder, self.port, self.web_port, self.moved_to = folder, free_port(), free_port(), free_port()

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        config = {
            "Name": "test", "StorageDirectory": str(self.folder / "db"), "IndexDirectory": str(self.folder / "db"),
            "Plugins": [str(PLUGIN)], "HttpPort": self.web_port, "DicomPort": self.port, "DicomAet": "ORTHANC",
            "DicomCheckCalledAet": True, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True, "DicomAlwaysAllowGet": True, "SyncStorageArea": False,
            "DicomAlwaysAllowMove": True, "DicomModalities": {"us": ["MEDGEN", "127.0.0.1", self.moved_to]},
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }  # fmt: skip
        (self.folder / "config.json").write_text(json.dumps(config))
        with open(self.folder / "log", "w") as log:
            self.process = subprocess.Popen([ORTHANC, self.folder / "config.json"], stdout=log, stderr=log)
        for _ in range(900):
            try:
                self.ask("system")
                return self
            except OSError:
                time.sleep(0.1)
        self.__exit__()
        raise RuntimeError((self.folder / "log").read_text())

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, path):
        """Orthanc's own interface, which medgen does not use."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/{path}", timeout=5) as answer:
            return json.loads(answer.read())

    def take(self, files):
        for file in files:
            address = f"http://127.0.0.1:{self.web_port}/instances"
            request = urllib.request.Request(address, Path(file).read_bytes(), method="POST")
            urllib.request.urlopen(request).close()

    def empty(self):
        for study in self.ask("studies"):
            request = urllib.request.Request(f"http://127.0.0.1:{self.web_port}/studies/{study}", method="DELETE")
            urllib.request.urlopen(request).close()


class Line:
    """A TCP connection to ``port`` of this machine through ``self.port``.

    ``cut(when)`` cuts it once ``when(bytes so far)`` holds, once; ``down``: none is accepted.
    """

    def __init__(self, port):
        self.target, self.when, self.down, self.passed = port, None, False, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def cut(self, when, then_down=False):
        self.passed, self.when, self.down, self.then_down = 0, when, False, then_down

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            if self.down:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=ends, daemon=True).start()

    def _pass(self, source, sink):
        try:
            while data := source.recv(2048):
                with self.lock:
                    self.passed += len(data)
                    if self.when is not None and self.when(self.passed):
                        self.when, self.down = None, self.then_down
                        break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
