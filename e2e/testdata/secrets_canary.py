"""Stores items from lines of label, attribute and secret, and reads them back.

Its session is encrypted, as those of most programs are.
"""
import sys
import secretstorage

default = secretstorage.get_default_collection(secretstorage.dbus_init())
for line in sys.stdin:
    label, attribute, secret = line.split()
    item = default.create_item(label, {attribute: attribute}, secret.encode())
    assert item.session.encrypted
    assert item.get_secret() == secret.encode()
