from forward_conftest import chained, far, lena, reading_there, third
from operations_conftest import network

__all__ = ["chained", "far", "lena", "network", "reading_there", "third"]
