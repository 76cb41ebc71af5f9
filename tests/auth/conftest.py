from auth_conftest import *  # noqa: F403
