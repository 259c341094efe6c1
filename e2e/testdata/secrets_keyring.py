"""python3-keyring, as pip, twine and poetry use it: secrets_keyring.py store|find|drop"""
import sys
import keyring
import keyring.backends.SecretService
from keyring.errors import PasswordDeleteError

keyring.set_keyring(keyring.backends.SecretService.Keyring())

match sys.argv[1]:
    case "store":
        assert keyring.get_password("https://example.org", "mia") is None
        keyring.set_password("https://example.org", "mia", "first")
        keyring.set_password("https://example.org", "mia", "pass\nwörd")
        keyring.set_password("https://example.org", "ben", "")
    case "find":
        assert keyring.get_password("https://example.org", "mia") == "pass\nwörd"
        assert keyring.get_password("https://example.org", "ben") == ""
        found = keyring.get_credential("https://example.org", None)
        assert (found.username, found.password) in [("mia", "pass\nwörd"), ("ben", "")], found
    case "drop":
        for user in "mia", "ben":
            keyring.delete_password("https://example.org", user)
            assert keyring.get_password("https://example.org", user) is None
            try:
                keyring.delete_password("https://example.org", user)
            except PasswordDeleteError:
                continue
            raise AssertionError("deleted twice")
