"""The names in a pickle that only an attack has use for. A file that holds one is refused by that name.

Nothing that a pickle names is ever imported or called, so this list keeps no code from running. It is here to
warn: whoever opens such a file with Python's own unpickler runs what its author put there.
"""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules of which every name is refused: they run programs or code, or reach files, memory and the network.
_MODULES = _words(
    """os posix nt ntpath posixpath subprocess _posixsubprocess sys pty runpy importlib _frozen_importlib _frozen_importlib_external imp
    zipimport pkgutil ctypes _ctypes socket _socket socketserver shutil tempfile codeop popen2 webbrowser antigravity pdb bdb timeit
    cProfile doctest pydoc venv ensurepip pip marshal pickle _pickle cPickle shelve gc linecache ftplib smtplib telnetlib winreg msvcrt
    _winapi fcntl mmap _thread urllib2"""
)

_BUILTINS = _words(
    """eval exec execfile compile __import__ open file input raw_input breakpoint globals locals vars dir setattr delattr apply
map filter reload exit quit help memoryview"""
)

# Further names, each with all that stand below it.
_NAMES = {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS} | _words(
    """io.open io.open_code io.FileIO _io.open _io.open_code _io.FileIO codecs.open
    operator.attrgetter operator.methodcaller operator.call _operator.attrgetter _operator.methodcaller _operator.call
    types.CodeType types.FunctionType types.LambdaType types.MethodType types.ModuleType
    code.interact code.InteractiveInterpreter code.InteractiveConsole code.compile_command profile.run profile.runctx profile.Profile
    commands.getoutput commands.getstatusoutput platform.popen asyncio.subprocess asyncio.create_subprocess_exec
    asyncio.create_subprocess_shell urllib.request urllib.urlopen urllib.urlretrieve http.client requests.get requests.post requests.api
    torch.load torch.hub torch.jit torch.package torch.ops.load_library torch.classes.load_library torch.serialization.load
    torch.utils.cpp_extension torch.utils.model_zoo torch.utils.bottleneck torch.utils.collect_env torch.utils._config_module
    torch._dynamo.guards torch.fx.experimental.symbolic_shapes torch.testing._internal torch.distributed.rpc
    numpy.load numpy.fromfile numpy.testing numpy.distutils numpy.f2py numpy.ctypeslib numpy.lib.npyio
    pandas.read_pickle pandas.io.pickle pandas.eval joblib.load dill.load dill.loads dill._dill.load dill._dill.loads
    cloudpickle.load cloudpickle.loads"""
)
_PARTS_MAX = max(name.count(".") for name in _NAMES)

# Inside a longer name (torch.serialization.os.system) these are the modules themselves, by way of one that imports them.
_INSIDE = _words("os posix nt subprocess sys builtins __builtin__ __builtins__ importlib runpy ctypes pty __globals__")

# Names that call others. Honest files have them too; where an attack's name follows them, they are named with it.
CALLERS = frozenset(f"{module}.{name}" for module in ("functools", "_functools") for name in ("partial", "reduce")) | {
    "builtins.getattr",
    "__builtin__.getattr",
}


def is_attack(name: str) -> bool:
    """Whether only an attack has use for a name, given in full: ``os.system``, ``builtins.eval``."""
    first, *rest = name.split(".")
    if first in _MODULES or not _INSIDE.isdisjoint(rest):
        return True
    return any(".".join((first, *rest[:count])) in _NAMES for count in range(1, _PARTS_MAX + 1))
