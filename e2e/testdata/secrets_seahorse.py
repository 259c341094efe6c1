"""Drives seahorse as a person does, by what is on its screen.

Each argument is a step: see, show, lock, unlock, add, password. A step is done
when seahorse shows what it is to have done; what keyringd thinks of it is
looked at elsewhere.
"""
import subprocess
import sys
import time
import warnings

import gi

gi.require_version("Atspi", "2.0")
from gi.repository import Atspi, GLib  # noqa: E402

warnings.simplefilter("ignore", DeprecationWarning)
patience = 60


def each(o=None):
    """All that is shown, from the outside in."""
    if o is None:
        o = Atspi.get_desktop(0)
    try:
        outer = o.get_role_name() in ("desktop frame", "application")
        if not outer and not o.get_state_set().contains(Atspi.StateType.SHOWING):
            return
        yield o
        children = [o.get_child_at_index(i) for i in range(o.get_child_count())]
    except GLib.Error:
        return  # it went away meanwhile
    for child in children:
        if child is not None:
            yield from each(child)


def find(role, name=None, within=None):
    """The first of that role and name, when it comes."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        for o in each(within):
            try:
                if o.get_role_name() == role and (name is None or name in o.get_name()):
                    return o
            except GLib.Error:
                continue
        time.sleep(0.05)
    for o in each():
        print(o.get_role_name(), repr(o.get_name()), file=sys.stderr)
    raise SystemExit(f"there is no {role} {name!r}")


def mouse(o, button):
    where = o.get_extents(Atspi.CoordType.SCREEN)
    Atspi.generate_mouse_event(where.x + where.width // 2, where.y + where.height // 2, button)


def press(o):
    assert o.do_action(0)


def row():
    """The login keyring among the places."""
    return find("label", "Login", within=find("list box"))


def menu(name):
    """Something in the keyring's menu, opened as often as it takes."""
    for _ in range(10):
        mouse(row(), "b3c")
        time.sleep(0.3)
        for o in each():
            if o.get_role_name() == "menu item" and o.get_name() == name:
                press(o)
                return
    raise SystemExit(f"the menu has no {name}")


def places():
    """Makes the window wide, as a narrow one shows the places by themselves."""
    find("frame")
    end = time.monotonic() + patience
    while time.monotonic() < end:
        subprocess.run(["xdotool", "search", "--onlyvisible", "--class", "seahorse", "windowsize", "%@", "1100", "700"], check=False)
        time.sleep(0.5)
        for o in each():
            if o.get_role_name() == "label" and o.get_name() == "OpenSSH keys":
                row()
                return
    raise SystemExit("seahorse does not show its places")


def add():
    # The buttons of the left half are the menu and, after it, the new item.
    half = find("label", "Passwords and Keys").get_parent().get_parent()
    buttons = [o for o in each(half) if o.get_role_name() == "toggle button"]
    press(buttons[-1] if len(buttons) == 2 else buttons[1])
    for o in each():
        if o.get_role_name() == "label" and o.get_name() == "Password":
            mouse(o, "b1c")
    dialog = find("dialog", "Add Password")
    assert find("text", within=dialog).set_text_contents("Made in seahorse")
    assert find("password text", within=dialog).set_text_contents("typed in seahorse")
    press(find("push button", "Add", within=dialog))
    find("label", "Made in seahorse")


for step in sys.argv[1:]:
    match step:
        case "see":
            places()
        case "show":
            mouse(row(), "b1c")
            find("label", "Mail password")
        case "lock":
            menu("Lock")
        case "unlock":
            menu("Unlock")
            find("label", "Mail password")
        case "password":
            menu("Change Password")
        case "add":
            add()
