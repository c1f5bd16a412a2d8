import pytest
from tests.fixtures_models import tiny_backbone

from fieldmark.models.backbone import Backbone


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()
