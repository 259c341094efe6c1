package main

/*
#cgo pkg-config: x11 gl
#include <stdlib.h>
#include <string.h>
#include <X11/Xlib.h>
#include <X11/XKBlib.h>
#include <X11/Xutil.h>
#include <GL/glx.h>

// noError keeps Xlib from ending the process: a window of somebody else's may
// be gone by now.
static int noError(Display *d, XErrorEvent *e) { return 0; }

// probe returns 0 for a display that can show an OpenGL window, and a
// connection to it; 1 where there is no display, 2 where it has no GLX.
static int probe(void **display) {
	int major, event, error;
	XInitThreads();
	Display *d = XOpenDisplay(NULL);
	if (d == NULL)
		return 1;
	if (!XQueryExtension(d, "GLX", &major, &event, &error)) {
		XCloseDisplay(d);
		return 2;
	}
	*display = d;
	return 0;
}

// warm has the OpenGL driver loaded, which stays for as long as the connection.
static void warm(void *display) {
	Display *d = (Display *)display;
	int n = 0;
	GLXFBConfig *all = glXGetFBConfigs(d, DefaultScreen(d), &n);
	if (all != NULL)
		XFree(all);
}

static int height(void *d) { return DisplayHeight((Display *)d, DefaultScreen((Display *)d)); }

static int grab(void *d, unsigned long window) {
	return XGrabKeyboard((Display *)d, window, True, GrabModeAsync, GrabModeAsync, CurrentTime);
}

static void ungrab(void *d) {
	XUngrabKeyboard((Display *)d, CurrentTime);
	XFlush((Display *)d);
}

// caps returns whether Caps Lock is on.
static int caps(void *d) {
	XkbStateRec state;
	if (XkbGetState((Display *)d, XkbUseCoreKbd, &state) != Success)
		return 0;
	return (state.locked_mods & LockMask) != 0;
}

// raise makes the window a dialog that stays above others, of the asker's
// window if that is known.
static void raise(void *display, unsigned long window, unsigned long parent) {
	Display *d = (Display *)display;
	int (*old)(Display *, XErrorEvent *) = XSetErrorHandler(noError);
	Atom type = XInternAtom(d, "_NET_WM_WINDOW_TYPE", False);
	Atom dialog = XInternAtom(d, "_NET_WM_WINDOW_TYPE_DIALOG", False);
	XChangeProperty(d, window, type, 4, 32, PropModeReplace, (unsigned char *)&dialog, 1);
	if (parent != 0)
		XSetTransientForHint(d, window, parent);
	XEvent e;
	memset(&e, 0, sizeof e);
	e.xclient.type = ClientMessage;
	e.xclient.window = window;
	e.xclient.message_type = XInternAtom(d, "_NET_WM_STATE", False);
	e.xclient.format = 32;
	e.xclient.data.l[0] = 1;
	e.xclient.data.l[1] = XInternAtom(d, "_NET_WM_STATE_ABOVE", False);
	e.xclient.data.l[3] = 1;
	XSendEvent(d, DefaultRootWindow(d), False, SubstructureNotifyMask | SubstructureRedirectMask, &e);
	XRaiseWindow(d, window);
	XSync(d, False);
	XSetErrorHandler(old);
}

// park puts a window that is not mapped yet where it is not seen, and where the
// window manager leaves it alone; or gives it back to the window manager.
static void park(void *display, unsigned long window, int on) {
	Display *d = (Display *)display;
	XSetWindowAttributes a;
	memset(&a, 0, sizeof a);
	a.override_redirect = on ? True : False;
	XChangeWindowAttributes(d, window, CWOverrideRedirect, &a);
	XMoveWindow(d, window, on ? -20000 : 0, on ? -20000 : 0);
	XSync(d, False);
}
*/
import "C"

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"github.com/go-gl/glfw/v3.4/glfw"
)

// displayFault says why no window can be opened, nil if one can. It asks the
// display itself: the toolkit, without one, ends without a word. Where X11 is
// what the toolkit will use, the OpenGL driver is being loaded when it returns,
// on a thread and a connection of its own: on many machines that takes longer
// than all that must happen before the driver is needed.
func displayFault() error {
	wayland := os.Getenv("WAYLAND_DISPLAY") != ""
	if os.Getenv("DISPLAY") == "" {
		if wayland {
			return nil
		}
		return errors.New("no display")
	}
	var d unsafe.Pointer
	fault := C.probe(&d)
	switch {
	case wayland:
		if d != nil {
			C.XCloseDisplay((*C.Display)(d))
		}
		return nil
	case fault == 1:
		return errors.New("no connection to the display")
	case fault == 2:
		return errors.New("no OpenGL on this display (GLX is missing)")
	}
	go C.warm(d)
	return nil
}

// display is GLFW's own connection, nil under Wayland. A grab through another
// connection would take the keys away from the window.
func display() unsafe.Pointer {
	if glfw.GetPlatform() != glfw.PlatformX11 {
		return nil
	}
	return unsafe.Pointer(glfw.GetX11Display())
}

// screenHeight is in pixels, 0 where it is not known.
func screenHeight() int {
	if d := display(); d != nil {
		return int(C.height(d))
	}
	return 0
}

// grab takes the keyboard for the window, and reports whether it got it: not
// before the window is on screen, nor while another program has it.
func grab(window uintptr) bool {
	d := display()
	return d != nil && C.grab(d, C.ulong(window)) == C.GrabSuccess
}

func ungrab() {
	if d := display(); d != nil {
		C.ungrab(d)
	}
}

// raise puts the window above others, and above parent if that is not 0.
func raise(window uintptr, parent uint64) {
	if d := display(); d != nil {
		C.raise(d, C.ulong(window), C.ulong(parent))
	}
}

// park takes a window out of everybody's sight, or brings it back. It is not on
// screen at the time.
func park(window uintptr, on bool) {
	d := display()
	if d == nil {
		return
	}
	var flag C.int
	if on {
		flag = 1
	}
	C.park(d, C.ulong(window), flag)
}

// heed takes notice of what has become of the window so far.
func heed() {
	if d := display(); d != nil {
		C.XSync((*C.Display)(d), C.False)
		glfw.PollEvents()
	}
}

// capsLock reports whether Caps Lock is on, as far as can be known.
func capsLock() bool {
	if d := display(); d != nil {
		return C.caps(d) != 0
	}
	// Wayland tells a window nothing before a key is pressed; the keyboard's
	// light is what the user sees, too.
	lights, _ := filepath.Glob("/sys/class/leds/*::capslock/brightness")
	for _, path := range lights {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) != "0" {
			return true
		}
	}
	return false
}
