from flows_conftest import running

__all__ = ["running"]
