from golden.conftest import workshop  # noqa: F401  (a fixture of both suites)
