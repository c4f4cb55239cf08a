"""Slicer module: translate a volume by a running ``medgen serve``."""

import json
import os
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import qt
import slicer
import vtk
from MedgenTranslateLib.client import LOCAL, MedgenError, MedgenServer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

ADDRESS_SETTING = "MedgenTranslate/Address"
TOKEN = "MEDGEN_SERVER_TOKEN"  # environment variable, as for medgen serve
NOTE = "Converted images are synthetic and not for diagnosis."
SAME_GRID = 1e-3  # mm; NIfTI stores geometry in float32


class Cancelled(Exception):
    """The user ended a conversion."""


class MedgenTranslate(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Medgen Translate"
        parent.categories = ["Filtering"]
        parent.dependencies = []
        parent.contributors = ["The medgen developers"]
        parent.helpText = f"Translates a volume from one contrast or modality to another by a medgen server. {NOTE}"
        parent.acknowledgementText = ""


class MedgenTranslateWidget(ScriptedLoadableModuleWidget):
    """Address and token, model, volume, progress, verdict."""

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MedgenTranslateLogic()
        self.running = self.cancelled = False

        self.address = qt.QLineEdit(qt.QSettings().value(ADDRESS_SETTING, "http://127.0.0.1:8000"))
        self.token = qt.QLineEdit(os.environ.get(TOKEN, ""))
        self.token.setEchoMode(qt.QLineEdit.Password)
        self.connectButton = qt.QPushButton("Connect")
        self.models = qt.QComboBox()
        self.input = slicer.qMRMLNodeComboBox()
        self.input.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.input.showChildNodeTypes = False  # no label maps
        self.input.addEnabled = self.input.removeEnabled = False
        self.input.noneEnabled = True
        self.input.setMRMLScene(slicer.mrmlScene)
        self.translateButton = qt.QPushButton("Translate")
        self.progressBar = qt.QProgressBar()
        self.progressBar.setVisible(False)
        self.result = qt.QPlainTextEdit()  # plain: texts of a server are not run as HTML
        self.result.setReadOnly(True)

        form = qt.QFormLayout()
        form.addRow("Server:", self.address)
        form.addRow("Token:", self.token)
        form.addRow(self.connectButton)
        form.addRow("Model:", self.models)
        form.addRow("Volume:", self.input)
        form.addRow(self.translateButton)
        form.addRow(self.progressBar)
        form.addRow(self.result)
        self.layout.addLayout(form)
        self.layout.addStretch(1)

        self.connectButton.connect("clicked()", self.onConnect)
        self.translateButton.connect("clicked()", self.onTranslate)
        self.input.connect("currentNodeChanged(vtkMRMLNode*)", self.update)
        self.update()

    def cleanup(self):
        self.cancelled = True

    def server(self):
        return MedgenServer(self.address.text, self.token.text)

    def update(self, *_):
        ready = self.models.count > 0 and self.input.currentNode() is not None
        self.translateButton.setEnabled(self.running or ready)
        self.translateButton.setText("Cancel" if self.running else "Translate")
        self.connectButton.setEnabled(not self.running)

    def onConnect(self):
        """List the models of the server."""
        self.models.clear()
        try:
            for model in self.server().models():
                self.models.addItem(model["name"])
                self.models.setItemData(self.models.count - 1, model.get("about", ""), qt.Qt.ToolTipRole)
            qt.QSettings().setValue(ADDRESS_SETTING, self.address.text)
        except MedgenError as error:
            slicer.util.errorDisplay(str(error))
        self.update()

    def onTranslate(self):
        """Translate the selected volume; while that runs, cancel it."""
        if self.running:
            self.cancelled = True
            return
        self.running, self.cancelled = True, False
        self.result.setPlainText("")
        self.update()
        try:
            volume, model = self.input.currentNode(), self.models.currentText
            output, job = self.logic.translate(self.server(), model, volume, self.show)
            slicer.util.setSliceViewerLayers(background=output)
            self.result.setPlainText(summary(job))
        except Cancelled:
            self.result.setPlainText("Cancelled.")
        except (MedgenError, OSError, RuntimeError) as error:
            slicer.util.errorDisplay(str(error))
        finally:
            self.running = False
            self.progressBar.setVisible(False)
            self.update()

    def show(self, text, part):
        """Progress of a conversion; keeps Slicer's window alive. Raises Cancelled."""
        self.progressBar.setVisible(True)
        self.progressBar.setMaximum(0 if part is None else 100)  # 0: busy, without a number
        self.progressBar.setValue(0 if part is None else int(100 * part))
        self.result.setPlainText(text)
        slicer.app.processEvents()
        if self.cancelled:
            raise Cancelled


class MedgenTranslateLogic(ScriptedLoadableModuleLogic):
    def translate(self, server, model, volume, progress=lambda text, part: None):
        """Send a volume to a server and load the result as a new volume of the same geometry and transform.

        Args:
            server: a MedgenServer.
            model: name of one of its models.
            volume: vtkMRMLScalarVolumeNode.
            progress: see MedgenTranslateLib/client.py; an exception from it ends the conversion.

        Returns:
            the new node, with the attributes Medgen.Model and Medgen.Verdict, and the state of the job.

        Raises:
            MedgenError: of the server. RuntimeError: Slicer cannot write or read the volume.
        """
        with tempfile.TemporaryDirectory(prefix="medgen-") as folder:
            progress("Saving", None)
            scan = os.path.join(folder, "scan.nii" if server.host in LOCAL else "scan.nii.gz")
            slicer.util.exportNode(volume, scan, {}, world=False)
            if not os.path.isfile(scan):
                raise RuntimeError("Slicer could not write the volume as NIfTI")
            result, job = server.translate(model, scan, folder, progress)
            output = slicer.util.loadVolume(result, {"name": f"{volume.GetName()} {model} synthetic", "show": False})
        storage = output.GetStorageNode()
        if storage is not None:  # the file is gone: Slicer shall offer to save the volume
            output.SetAndObserveStorageNodeID(None)
            slicer.mrmlScene.RemoveNode(storage)
        self.place(volume, output)
        output.SetAttribute("Medgen.Model", model)
        output.SetAttribute("Medgen.Verdict", str(job["cases"][0]["verdict"]))
        return output, job

    def place(self, volume, output):
        """Give the output the input's geometry exactly, unless its grid is another one (a model that restores slices),
        and its transform."""
        given, found = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(given)
        output.GetIJKToRASMatrix(found)
        places = [(row, column) for row in range(4) for column in range(4)]
        apart = max(abs(given.GetElement(*place) - found.GetElement(*place)) for place in places)
        same = volume.GetImageData().GetDimensions() == output.GetImageData().GetDimensions()
        if same and apart < SAME_GRID:
            output.SetIJKToRASMatrix(given)
        output.SetAndObserveTransformNodeID(volume.GetTransformNodeID())


def summary(job):
    """Verdict, reasons and warnings of a finished job, as lines of text."""
    case = job["cases"][0]
    verdict = "not checked" if case["verdict"] is None else case["verdict"]
    lines = [f"Quality check: {verdict} ({job['seconds']:.0f} s)"]
    lines += [f"- {reason}" for reason in case["reasons"] or []]
    lines += [f"Warning: {warning}" for warning in case["warnings"] or []]
    return "\n".join([*lines, NOTE])


class MedgenTranslateTest(ScriptedLoadableModuleTest):
    """Against a stand-in of the server, so that Slicer's test harness needs no medgen."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self, **_):
        self.setUp()
        self.test_a_volume_comes_back_with_its_geometry()
        self.setUp()
        self.test_a_refusal_is_told_and_adds_no_volume()

    def test_a_volume_comes_back_with_its_geometry(self):
        import numpy as np

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
        voxels = np.arange(5 * 4 * 3, dtype=np.int16).reshape(5, 4, 3)  # slices, rows, columns
        slicer.util.updateVolumeFromArray(volume, voxels)
        matrix = vtk.vtkMatrix4x4()
        for row, values in enumerate(((-0.672, 0.196, 0, 11.3), (0.196, 0.672, 0, -20), (0, 0, 2.5, 7.123456))):
            for column, value in enumerate(values):
                matrix.SetElement(row, column, value)
        volume.SetIJKToRASMatrix(matrix)
        with StandIn() as address:
            output, job = MedgenTranslateLogic().translate(MedgenServer(address), "copy", volume)
        self.assertEqual(output.GetName(), "scan copy synthetic")
        self.assertEqual(output.GetAttribute("Medgen.Verdict"), "review")
        self.assertIn("- brighter", summary(job))
        self.assertTrue(np.array_equal(slicer.util.arrayFromVolume(output), voxels))
        found = vtk.vtkMatrix4x4()
        output.GetIJKToRASMatrix(found)
        for row in range(4):
            for column in range(4):
                self.assertAlmostEqual(found.GetElement(row, column), matrix.GetElement(row, column), places=9)
        self.assertIsNone(output.GetStorageNode())

    def test_a_refusal_is_told_and_adds_no_volume(self):
        import numpy as np

        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
        slicer.util.updateVolumeFromArray(volume, np.zeros((3, 3, 3), np.int16))
        with StandIn() as address:
            with self.assertRaises(MedgenError):
                MedgenTranslateLogic().translate(MedgenServer(address), "none", volume)
        self.assertEqual(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"), 1)


class StandIn:
    """A server that answers like ``medgen serve`` and whose only model, "copy", returns what it got."""

    def __enter__(self):
        kept = {}
        case = {"case": "scan", "verdict": "review", "reasons": ["brighter"], "warnings": [], "error": None}
        job = {"id": "1", "state": "done", "position": None, "seconds": 1.0, "error": None, "cases": [case]}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                kept["scan"] = self.rfile.read(int(self.headers["Content-Length"]))
                if "model=copy" in self.path:
                    self.reply(202, {"id": "1"})
                else:
                    self.reply(404, {"error": "this server has no such model"})

            def do_GET(self):
                if self.path.endswith("/result"):
                    self.reply(200, kept["scan"])
                else:
                    self.reply(200, dict(job, result="result.nii"))

            def do_DELETE(self):
                self.reply(200, {"deleted": "1"})

            def reply(self, status, content):
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
