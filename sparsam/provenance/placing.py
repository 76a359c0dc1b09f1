"""Which file lies where: the part of the fold that finds files at places, by name, inode, size and time of change."""

from typing import Any

from sparsam.provenance.state import FOUND, OUTSIDE, File, Inode, Node, Place, State


class Placing:
    """Finds files; the record that is at hand is the reason for whatever comes to be."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.time = self.number = self.program = 0
        self.host = ""

    def _current(self, file: File) -> Node:
        return self.state.entities[file.current]

    def _place(self, path: str) -> Place:
        found = self.state.places[self.host, path]
        if found is None:
            found = Place(self.state.number("place"), self.host, path)
            self.state.places[self.host, path] = self.state.place_of[found.key] = found
            self.state.new("place", found)
        return found

    def _name(self, entity: Node, place: Place) -> None:
        """It is called so from now on."""
        entity.names.append(place.key)
        self.state.changed["entity"][entity.key] = entity
        self._last(entity, place)

    def _last(self, entity: Node, place: Place) -> None:
        known = (place.began, place.generation, -(place.last or 0))
        if place.last is None or (entity.began, entity.generation, -entity.key) > known:
            place.last, place.began, place.generation = entity.key, entity.began, entity.generation
            self.state.changed["place"][place.key] = place

    def _lay(self, place: Place, file: File) -> None:
        """The file lies there from now on."""
        if place.file is None:
            place.since = self.state.number("since")
        place.file = file.key
        file.paths.add(place.key)
        self.state.changed["place"][place.key] = place
        self.state.changed["file"][file.key] = file

    def _made(self, kind: str, form: int, place: Place, generation: int) -> Node:
        made = Node(
            self.state.number("entity"), kind, form, place.key, self.program, self.number, generation, self.time,
            [place.key],
        )  # fmt: skip
        self.state.entities[made.key] = made
        self.state.new("entity", made)
        self._last(made, place)
        return made

    def _file(
        self,
        place: Place,
        inode: tuple[int, int] | None = None,
        size: int | None = None,
        changed: int | None = None,
        fresh: bool = False,
    ) -> File:
        """The file at a place, found anew where it is not as it was left."""
        state = self.state
        file = state.files[place.file] if place.file is not None else None
        if file is not None and fresh:  # made anew: what was known has gone unseen
            self._unlink(place)
            file = None
        if file is not None and inode is not None and file.inode not in (None, inode):
            self._unlink(place)  # something unseen was put in its place
            file = self._found(place, inode, size, changed, outside=True)
        if file is None and inode is not None and not fresh:
            node = state.inodes[(self.host, *inode)]
            other = state.files[node.file] if node is not None and node.file is not None else None
            if other is not None and other.paths and self._unchanged(other, size, changed):
                self._lay(place, other)  # a link, or a name that was given unseen
                self._name(self._current(other), place)
                file = other
        if file is None:
            file = self._found(place, inode, size, changed)
        elif not self._unchanged(file, size, changed) and not file.writers:
            file.generation += 1
            old = file.current
            made = self._generation(file, OUTSIDE, place, size, changed)
            made.outside, made.revision = True, old
        if inode is not None:
            self._numbered(file, inode)
        return file

    def _numbered(self, file: File, inode: tuple[int, int]) -> None:
        if file.inode != inode:
            file.inode = inode
            self.state.changed["file"][file.key] = file
        node = self.state.inodes[(self.host, *inode)]
        if node is None:
            node = Inode(self.state.number("inode"), self.host, *inode, file=None)
            self.state.inodes[(self.host, *inode)] = node
        if node.file != file.key:
            node.file = file.key
            self.state.changed["inode"][node.key] = node

    def _found(
        self, place: Place, inode: Any, size: int | None, changed: int | None, outside: bool = False
    ) -> File:
        file = File(self.state.number("file"), 0, inode, set())
        self.state.files[file.key] = file
        self._lay(place, file)
        self._generation(file, FOUND, place, size, changed).outside = outside
        return file

    def _generation(self, file: File, form: int, place: Place, size: int | None, changed: int | None) -> Node:
        made = self._made("file", form, place, file.generation)
        made.file, made.size, made.changed = file.key, size, changed
        file.current = made.key
        self.state.changed["file"][file.key] = file
        return made

    def _unchanged(self, file: File, size: int | None, changed: int | None) -> bool:
        entity = self._current(file)
        same_size = size is None or entity.size is None or size == entity.size
        same_time = changed is None or entity.changed is None or changed == entity.changed
        return same_size and same_time

    def _unlink(self, place: Place) -> None:
        if place.file is None:
            return
        file = self.state.files[place.file]
        place.file = None
        file.paths.discard(place.key)
        self.state.changed["place"][place.key] = place
        self.state.changed["file"][file.key] = file
        if not file.paths and file.inode is not None:
            node = self.state.inodes[(self.host, *file.inode)]
            if node is not None:
                node.file = None
                self.state.changed["inode"][node.key] = node
