"""Items as a person sees them: title, caption and a small picture, made once each."""

from __future__ import annotations

from catalograph.extraction import captions
from catalograph.report.data import Card
from catalograph.report.render import picture_uri
from catalograph.road import Road
from extract.decoding import Decoder
from extract.pictures import BadPicture


class ItemCards:
    """Cards by item id."""

    def __init__(self, road: Road, decoder: Decoder) -> None:
        self._road, self._captions, self._decoder = road, captions(road), decoder
        self._made: dict[str, Card] = {}

    def __getitem__(self, item_id: str) -> Card:
        if item_id not in self._made:
            item, pictures = self._road.catalog[item_id], self._road.catalog.pictures
            picture = None
            if item.picture is not None and pictures is not None:
                try:
                    picture = picture_uri(self._decoder.submit(pictures.read(item.picture)).result())
                except BadPicture:
                    picture = None
            self._made[item_id] = Card(item_id, item.title, self._captions.get(item_id), picture)
        return self._made[item_id]
