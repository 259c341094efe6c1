"""python3-secretstorage: secrets_storage.py store|find|refused|drop"""
import contextlib
import sys
import secretstorage

bus = secretstorage.dbus_init()
assert secretstorage.check_service_availability(bus)
default = secretstorage.get_default_collection(bus)
everything = bytes(range(256)) * 400

match sys.argv[1]:
    case "store":
        assert not default.unlock() and not default.is_locked()
        item = default.create_item("Binary", {"application": "e2e", "n": "1"}, everything, content_type="application/x-e2e")
        default.create_item("Empty", {"application": "e2e", "n": "2"}, b"")
        other = secretstorage.create_collection(bus, "Work", "work")
        other.create_item("At work", {"application": "e2e", "n": "3"}, "w" * 60000)
        assert len(list(secretstorage.search_items(bus, {"application": "e2e"}))) == 3
    case "find":
        # All are found while locked, and none is taken for another.
        found = {i.item_path: i for i in secretstorage.search_items(bus, {"application": "e2e"})}
        assert len(found) == 3, found
        for item in found.values():
            assert item.is_locked()
            try:
                item.get_secret()
            except secretstorage.LockedException:
                continue
            raise AssertionError("read while locked")
        for item in found.values():
            assert not item.unlock()
        secrets = {i.get_attributes()["n"]: (i.get_label(), i.get_secret()) for i in found.values()}
        assert secrets == {"1": ("Binary", everything), "2": ("Empty", b""), "3": ("At work", b"w" * 60000)}
        assert secretstorage.get_collection_by_alias(bus, "work").get_label() == "Work"
        item = next(default.search_items({"n": "1"}))
        assert item.get_secret_content_type() == "application/x-e2e"
        assert item.get_created() == item.get_modified() > 0
    case "refused":
        # The user's no leaves everything locked, and is told.
        assert default.is_locked() and default.unlock() and default.is_locked()
        assert len(list(secretstorage.search_items(bus, {"application": "e2e"}))) == 3
    case "drop":
        default.unlock()
        next(default.search_items({"n": "1"})).delete()
        secretstorage.get_collection_by_alias(bus, "work").delete()
        left = [i.get_label() for i in secretstorage.search_items(bus, {"application": "e2e"})]
        assert left == ["Empty"], left
        with contextlib.suppress(secretstorage.ItemNotFoundException):
            secretstorage.get_collection_by_alias(bus, "work")
            raise AssertionError("the collection is still there")
