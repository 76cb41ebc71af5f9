from operations_conftest import network

__all__ = ["network"]
