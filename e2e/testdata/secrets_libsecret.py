"""libsecret, as GNOME's programs use it: secrets_libsecret.py store|find|refused|drop"""
import sys
import gi

gi.require_version("Secret", "1")
from gi.repository import GLib, Secret  # noqa: E402

kinds = Secret.SchemaAttributeType
schema = Secret.Schema.new("io.github.keyringd.E2E", Secret.SchemaFlags.NONE, {"host": kinds.STRING, "port": kinds.INTEGER, "tls": kinds.BOOLEAN})
here = {"host": "mail.example.org", "port": "993", "tls": "true"}

match sys.argv[1]:
    case "store":
        assert Secret.password_lookup_sync(schema, here, None) is None
        assert Secret.password_store_sync(schema, here, Secret.COLLECTION_DEFAULT, "Mail", "first", None)
        assert Secret.password_store_sync(schema, here, Secret.COLLECTION_DEFAULT, "Mail", "second", None)
        assert Secret.password_store_sync(schema, {**here, "port": "25"}, Secret.COLLECTION_SESSION, "For now", "short", None)
    case "find":
        service = Secret.Service.get_sync(Secret.ServiceFlags.OPEN_SESSION | Secret.ServiceFlags.LOAD_COLLECTIONS, None)
        assert service.get_session_algorithms() == "dh-ietf1024-sha256-aes128-cbc-pkcs7"
        found = service.search_sync(schema, here, Secret.SearchFlags.ALL, None)
        assert [i.get_locked() for i in found] == [True], found
        flags = Secret.SearchFlags.ALL | Secret.SearchFlags.UNLOCK | Secret.SearchFlags.LOAD_SECRETS
        found = service.search_sync(schema, here, flags, None)
        assert [i.get_secret().get_text() for i in found] == ["second"]
        # Labels come with the signals that follow, and those in the main loop.
        late = []
        GLib.timeout_add_seconds(60, lambda: late.append(1))
        while found[0].get_label() != "Mail":
            assert not late, found[0].get_label()
            GLib.MainContext.default().iteration(True)
        assert found[0].get_attributes() == {**here, "xdg:schema": "io.github.keyringd.E2E"}
        # What was for the session is gone with the daemon.
        assert Secret.password_lookup_sync(schema, {"port": "25"}, None) is None
    case "refused":
        try:
            told = Secret.password_lookup_sync(schema, here, None)
        except GLib.Error:
            pass
        else:
            assert told is None
        service = Secret.Service.get_sync(Secret.ServiceFlags.NONE, None)
        assert len(service.search_sync(schema, here, Secret.SearchFlags.ALL, None)) == 1
    case "drop":
        assert Secret.password_lookup_sync(schema, here, None) == "second"
        assert Secret.password_clear_sync(schema, here, None)
        assert not Secret.password_clear_sync(schema, here, None)
        assert Secret.password_lookup_sync(schema, here, None) is None
