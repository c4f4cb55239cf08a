"""A small stand-in of Slicer's API: the modules slicer, vtk and qt with what integrations/slicer calls.

Volumes are kept as (slices, rows, columns) with the matrix from IJK to RAS, and are written and read by nibabel, as
NIfTI in float32 geometry. What Slicer does not have is no attribute here, so that a wrong name fails.
"""

import sys
import types
import unittest

import nibabel as nib
import numpy as np


class vtkMatrix4x4:
    def __init__(self):
        self.values = np.eye(4)

    def GetElement(self, row, column):
        return float(self.values[row, column])

    def SetElement(self, row, column, value):
        self.values[row, column] = value

    def DeepCopy(self, other):
        self.values = other.values.copy()


class Node:
    def __init__(self, scene, kind, name):
        self.scene, self.kind, self.name = scene, kind, name
        self.attributes, self.matrix, self.voxels = {}, vtkMatrix4x4(), None
        self.storage = self.transform = None

    def GetName(self):
        return self.name

    def GetImageData(self):
        return types.SimpleNamespace(GetDimensions=lambda: self.voxels.shape[::-1])

    def GetIJKToRASMatrix(self, matrix):
        matrix.DeepCopy(self.matrix)

    def SetIJKToRASMatrix(self, matrix):
        self.matrix.DeepCopy(matrix)

    def GetStorageNode(self):
        return self.storage

    def SetAndObserveStorageNodeID(self, name):
        assert name is None
        self.storage = None

    def GetTransformNodeID(self):
        return self.transform

    def SetAndObserveTransformNodeID(self, name):
        self.transform = name

    def GetAttribute(self, key):
        return self.attributes.get(key)

    def SetAttribute(self, key, value):
        assert isinstance(value, str)
        self.attributes[key] = value


class Scene:
    def __init__(self):
        self.nodes = []

    def Clear(self):
        self.nodes.clear()

    def AddNewNodeByClass(self, kind, name):
        self.nodes.append(Node(self, kind, name))
        return self.nodes[-1]

    def RemoveNode(self, node):
        self.nodes.remove(node)

    def GetNumberOfNodesByClass(self, kind):
        return sum(node.kind == kind for node in self.nodes)


class Object:
    """A Qt object: signals, and setX for each property x."""

    properties = ("enabled", "visible", "text")

    def __init__(self, text=""):
        self.slots, self.enabled, self.visible, self.text = {}, True, True, text

    def __getattr__(self, name):
        key = name[3:4].lower() + name[4:]
        if name.startswith("set") and key in self.properties:
            return lambda value: setattr(self, key, value)
        raise AttributeError(f"{type(self).__name__} has no {name}")

    def connect(self, signal, slot):
        self.slots[signal] = slot

    def emit(self, signal, *values):
        self.slots[signal](*values)


class QPushButton(Object):
    def click(self):
        if self.enabled:
            self.emit("clicked()")


class QLineEdit(Object):
    Password = 2
    properties = (*Object.properties, "echoMode")


class QPlainTextEdit(Object):
    properties = (*Object.properties, "plainText", "readOnly")


class QProgressBar(Object):
    properties = (*Object.properties, "maximum", "value")


class QComboBox(Object):
    def __init__(self):
        super().__init__()
        self.items, self.tips = [], {}

    @property
    def count(self):
        return len(self.items)

    @property
    def currentText(self):
        return self.items[0] if self.items else ""

    def addItem(self, text):
        self.items.append(text)

    def setItemData(self, index, value, role):
        self.tips[index] = value

    def clear(self):
        self.items.clear()


class qMRMLNodeComboBox(Object):
    def __init__(self):
        super().__init__()
        self.node = None

    def setMRMLScene(self, scene):
        self.scene = scene

    def currentNode(self):
        return self.node

    def setCurrentNode(self, node):
        self.node = node
        self.emit("currentNodeChanged(vtkMRMLNode*)", node)


class Layout:
    def __init__(self):
        self.rows = []

    def addRow(self, *widgets):
        self.rows.append(widgets)

    def addLayout(self, layout):
        self.rows.append((layout,))

    def addStretch(self, stretch):
        pass


class QSettings:
    values = {}

    def value(self, key, default):
        return self.values.get(key, default)

    def setValue(self, key, value):
        self.values[key] = value


class ScriptedLoadableModule:
    def __init__(self, parent):
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        self.layout = Layout()

    def setup(self):
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        pass


class ScriptedLoadableModuleTest(unittest.TestCase):
    def runTest(self):
        pass


def install(monkeypatch):
    """Make the modules importable; returns ``slicer``, whose ``shown`` lists what the user would see."""
    slicer, vtk, qt = (types.ModuleType(name) for name in ("slicer", "vtk", "qt"))
    scripted, util = types.ModuleType("slicer.ScriptedLoadableModule"), types.ModuleType("slicer.util")
    slicer.mrmlScene, slicer.util, slicer.qMRMLNodeComboBox, slicer.shown = Scene(), util, qMRMLNodeComboBox, []
    slicer.app = types.SimpleNamespace(processEvents=lambda: None)

    def exportNode(node, filename, properties, world):
        nib.save(nib.Nifti1Image(node.voxels.transpose(), node.matrix.values), filename)
        return True

    def loadVolume(filename, properties):
        image = nib.load(filename)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", properties["name"])
        node.voxels = np.asarray(image.dataobj).transpose()
        node.matrix.values = image.affine
        node.storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode", filename)
        return node

    def updateVolumeFromArray(node, voxels):
        node.voxels = voxels

    def setSliceViewerLayers(background):
        slicer.shown.append(background)

    util.exportNode, util.loadVolume, util.updateVolumeFromArray = exportNode, loadVolume, updateVolumeFromArray
    util.arrayFromVolume, util.setSliceViewerLayers = (lambda node: node.voxels), setSliceViewerLayers
    util.errorDisplay = slicer.shown.append
    vtk.vtkMatrix4x4 = vtkMatrix4x4
    for kind in (QPushButton, QLineEdit, QPlainTextEdit, QProgressBar, QComboBox, QSettings):
        setattr(qt, kind.__name__, kind)
    qt.QFormLayout, qt.Qt = Layout, types.SimpleNamespace(ToolTipRole=3)
    for kind in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(scripted, kind.__name__, kind)
    for module in (slicer, vtk, qt, scripted, util):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return slicer
