"""Started instances on a database whose user has tables and transactions there, too."""

from tests.engine.conftest import make as make
