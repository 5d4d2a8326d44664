"""The text the demo model learns from: one row per distribution, with its licence.

`deb` rows are Debian 12 packages (apt-get download), `sdist` rows are source distributions (pip download).
Weights say how a group of rows is sampled in training; see train.py.
"""

from typing import NamedTuple


class Source(NamedTuple):
    package: str  # name of the Debian package, or NAME==VERSION of the source distribution
    kind: str  # "deb" or "sdist"
    licence: str  # SPDX identifier
    group: str  # "python": the language itself; "more": everything else
    globs: tuple[str, ...]  # files taken, relative to the unpacked package


PY = "usr/lib/python3/dist-packages"
DOCS = ("**/_sources/**/*.rst.txt",)
SYMPY = tuple(
    f"{PY}/sympy/{part}/**/*.py"
    for part in ("core", "functions", "sets", "stats", "geometry", "combinatorics", "utilities")
)

SOURCES = (
    Source("python3.11-doc", "deb", "PSF-2.0", "python", DOCS),
    Source("libpython3.11-stdlib", "deb", "PSF-2.0", "python", ("usr/lib/python3.11/**/*.py",)),
    Source("libpython3.11-minimal", "deb", "PSF-2.0", "python", ("usr/lib/python3.11/**/*.py",)),
    Source("idle-python3.11", "deb", "PSF-2.0", "python", ("usr/lib/python3.11/idlelib/*.py",)),
    Source("Django==4.2.16", "sdist", "BSD-3-Clause", "more", ("*/docs/**/*.txt", "*/django/**/*.py")),
    Source("python-pandas-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-sqlalchemy-doc", "deb", "MIT", "more", DOCS),
    Source("python-jinja2-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-flask-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-werkzeug-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-attr-doc", "deb", "MIT", "more", DOCS),
    Source("python-requests-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("python-pytest-doc", "deb", "MIT", "more", DOCS),
    Source("sphinx-doc", "deb", "BSD-2-Clause", "more", DOCS),
    Source("python-click-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-aiohttp-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("python-tornado-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("python-setuptools-doc", "deb", "MIT", "more", DOCS),
    Source("python-cryptography-doc", "deb", "Apache-2.0 OR BSD-3-Clause", "more", DOCS),
    Source("python-ipython-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-dask-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-xarray-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("cython-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("python-sklearn-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-statsmodels-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python-sympy-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("python3-sqlalchemy", "deb", "MIT", "more", (f"{PY}/sqlalchemy/**/*.py",)),
    Source("python3-numpy", "deb", "BSD-3-Clause", "more", (f"{PY}/numpy/**/*.py",)),
    Source("python3-scipy", "deb", "BSD-3-Clause", "more", (f"{PY}/scipy/**/*.py",)),
    Source("python3-networkx", "deb", "BSD-3-Clause", "more", (f"{PY}/networkx/**/*.py",)),
    Source("python3-pandas", "deb", "BSD-3-Clause", "more", (f"{PY}/pandas/**/*.py",)),
    Source("python3-sphinx", "deb", "BSD-2-Clause", "more", (f"{PY}/sphinx/**/*.py",)),
    Source("cmake-doc", "deb", "BSD-3-Clause", "more", DOCS),
    Source("llvm-15-doc", "deb", "Apache-2.0 WITH LLVM-exception", "more", DOCS),
    Source("nova-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("neutron-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("cinder-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("keystone-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("swift-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("glance-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("ironic-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("heat-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("numba-doc", "deb", "BSD-2-Clause", "more", DOCS),
    Source("python-pymongo-doc", "deb", "Apache-2.0", "more", DOCS),
    Source("python-mpmath-doc", "deb", "BSD-3-Clause", "more", ("**/_sources/**/*.txt",)),
    Source("python3-sklearn", "deb", "BSD-3-Clause", "more", (f"{PY}/sklearn/**/*.py",)),
    Source("python3-dask", "deb", "BSD-3-Clause", "more", (f"{PY}/dask/**/*.py",)),
    Source("python3-nltk", "deb", "Apache-2.0", "more", (f"{PY}/nltk/**/*.py",)),
    Source("python3-twisted", "deb", "MIT", "more", (f"{PY}/twisted/**/*.py",)),
    Source("python3-tornado", "deb", "Apache-2.0", "more", (f"{PY}/tornado/**/*.py",)),
    Source("python3-aiohttp", "deb", "Apache-2.0", "more", (f"{PY}/aiohttp/**/*.py",)),
    Source("python3-ipython", "deb", "BSD-3-Clause", "more", (f"{PY}/IPython/**/*.py",)),
    Source("python3-statsmodels", "deb", "BSD-3-Clause", "more", (f"{PY}/statsmodels/**/*.py",)),
    Source("python3-xarray", "deb", "Apache-2.0", "more", (f"{PY}/xarray/**/*.py",)),
    Source("python3-astropy", "deb", "BSD-3-Clause", "more", (f"{PY}/astropy/**/*.py",)),
    Source("python3-werkzeug", "deb", "BSD-3-Clause", "more", (f"{PY}/werkzeug/**/*.py",)),
    Source("python3-jinja2", "deb", "BSD-3-Clause", "more", (f"{PY}/jinja2/**/*.py",)),
    Source("python3-pytest", "deb", "MIT", "more", (f"{PY}/_pytest/**/*.py",)),
    Source("python3-mpmath", "deb", "BSD-3-Clause", "more", (f"{PY}/mpmath/**/*.py",)),
    Source("python3-sympy", "deb", "BSD-3-Clause", "more", SYMPY),
)

# Tables, generated code, tests, change logs and copies of the documentation: many bytes, little language.
EXCLUDED_PARTS = (
    "/encodings/", "/pydoc_data/", "/test/", "/tests/", "/testing/", "/lib2to3/", "/whatsnew/", "/changelog",
    "/changes", "/CHANGES", "/releases/", "/release/", "/generated/", "/conf/locale/", "/locale/", "/stringprep.py",
    "/_sysconfigdata", "/api/", "/html/entities.py", "/search/", "/history", "/misc.rst", "/copyright.rst",
    "/configuration/samples/", "/datasets/", "/extern/",
)  # fmt: skip
