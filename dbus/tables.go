package dbus

import (
	"embed"
	"encoding/xml"
	"fmt"
	"maps"
	"reflect"
	"strings"

	godbus "github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"

	"github.com/keyringd/keyringd/dbus/internal/wire"
)

// The interfaces' names.
const (
	keyringInterface       = "io.github.keyringd.Keyring1"
	keysInterface          = "io.github.keyringd.Keys1"
	keyInterface           = "io.github.keyringd.Key1"
	managerInterface       = "org.freedesktop.DBus.ObjectManager"
	propertiesInterface    = "org.freedesktop.DBus.Properties"
	introspectionInterface = "org.freedesktop.DBus.Introspectable"
	peerInterface          = "org.freedesktop.DBus.Peer"

	serviceInterface     = "org.freedesktop.Secret.Service"
	collectionInterface  = "org.freedesktop.Secret.Collection"
	itemInterface        = "org.freedesktop.Secret.Item"
	sessionInterface     = "org.freedesktop.Secret.Session"
	promptInterface      = "org.freedesktop.Secret.Prompt"
	guiltRiddenInterface = "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface"
	portalInterface      = "org.freedesktop.impl.portal.Secret"
	requestInterface     = "org.freedesktop.impl.portal.Request"
	keyringsInterface    = "io.github.keyringd.Keyrings1"
)

//go:embed *.xml
var interfaceFiles embed.FS

// handlers are the functions behind the methods of the interface files. Each
// takes a *call and the method's in arguments, and returns its out arguments
// and an error; a test compares the types with the files.
func handlers() map[string]map[string]any {
	all := map[string]map[string]any{
		keyringInterface: {
			"Lock":      (*call).lock,
			"Unlock":    (*call).unlock,
			"Status":    (*call).status,
			"History":   (*call).history,
			"Approvals": (*call).approvals,
			"Revoke":    (*call).revoke,
		},
		keysInterface: {
			"Create": (*call).createKey,
			"Import": (*call).importKey,
			"Wrap":   (*call).wrapKey,
			"Parent": (*call).parent,
			"Seal":   (*call).seal,
			"Unseal": (*call).unseal,
		},
		keyInterface: {
			"Sign":       (*call).sign,
			"ChangeAuth": (*call).changeAuth,
			"SetLabel":   (*call).setLabel,
			"Remove":     (*call).removeKey,
			"Attest":     (*call).attest,

			"RequestCertificate": (*call).requestCertificate,
		},
		managerInterface:       {"GetManagedObjects": (*call).managedObjects},
		propertiesInterface:    {"Get": (*call).getProperty, "GetAll": (*call).allProperties, "Set": (*call).setProperty},
		introspectionInterface: {"Introspect": (*call).introspect},
		peerInterface:          {"Ping": (*call).ping, "GetMachineId": (*call).machineID},
	}
	maps.Copy(all, secretHandlers())
	return all
}

// secretHandlers are those of the Secret Service and of what goes with it.
func secretHandlers() map[string]map[string]any {
	return map[string]map[string]any{
		serviceInterface: {
			"OpenSession":      (*call).openSession,
			"CreateCollection": (*call).createCollection,
			"SearchItems":      (*call).searchItems,
			"Unlock":           (*call).unlockObjects,
			"Lock":             (*call).lockObjects,
			"LockService":      (*call).lockService,
			"ChangeLock":       (*call).changeLock,
			"GetSecrets":       (*call).getSecrets,
			"ReadAlias":        (*call).readAlias,
			"SetAlias":         (*call).setAlias,
		},
		collectionInterface: {
			"Delete":      (*call).deleteCollection,
			"SearchItems": (*call).searchCollection,
			"CreateItem":  (*call).createItem,
		},
		itemInterface: {
			"Delete":    (*call).deleteItem,
			"GetSecret": (*call).getSecret,
			"SetSecret": (*call).setSecret,
		},
		sessionInterface: {"Close": (*call).closeSession},
		promptInterface:  {"Prompt": (*call).show, "Dismiss": (*call).dismiss},
		guiltRiddenInterface: {
			"ChangeWithMasterPassword": (*call).changeWithMaster,
			"ChangeWithPrompt":         (*call).changeLock,
			"CreateWithMasterPassword": (*call).createWithMaster,
			"UnlockWithMasterPassword": (*call).unlockWithMaster,
		},
		portalInterface:  {"RetrieveSecret": (*call).retrieveSecret},
		requestInterface: {"Close": (*call).closeRequest},
		keyringsInterface: {
			"ListKeyrings":     (*call).listKeyrings,
			"CreateKeyring":    (*call).createKeyring,
			"Lock":             (*call).lockKeyring,
			"Unlock":           (*call).unlockKeyring,
			"ChangePassphrase": (*call).changePassphrase,
			"ListSlots":        (*call).listSlots,
			"AddSlot":          (*call).addSlot,
			"AddRecoverySlot":  (*call).addRecoverySlot,
			"Import":           (*call).importSecrets,
			"Export":           (*call).exportSecrets,
			"RemoveSlot":       (*call).removeSlot,
		},
	}
}

// sizes are the methods that take more than maxArguments, and how much.
var sizes = map[string]int{
	keyInterface + ".Sign":              maxData + maxArguments,
	keysInterface + ".Wrap":             maxData + maxArguments,
	serviceInterface + ".Unlock":        maxPaths,
	serviceInterface + ".Lock":          maxPaths,
	serviceInterface + ".GetSecrets":    maxPaths,
	collectionInterface + ".CreateItem": maxSecretSize + maxArguments,
	itemInterface + ".SetSecret":        maxSecretSize + maxArguments,
}

// An iface is an interface as its file has it, with the functions behind it.
type iface struct {
	introspect.Interface
	text    string // the <interface> element
	methods map[string]*method
}

// A method is one that can be called.
type method struct {
	in, out string // signatures
	most    int    // bytes of arguments
	handler reflect.Value
	args    []reflect.Type
}

// tables is every interface by its name. It never changes.
type tables map[string]*iface

// loadTables reads the interface files and puts the handlers behind them. An
// error is a mistake in the program: the two do not fit each other.
func loadTables(all map[string]map[string]any) (tables, error) {
	entries, err := interfaceFiles.ReadDir(".")
	if err != nil {
		return nil, err
	}
	t := tables{}
	for _, e := range entries {
		text, err := interfaceFiles.ReadFile(e.Name())
		if err != nil {
			return nil, err
		}
		i, err := parseInterface(string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		if i.Name+".xml" != e.Name() {
			return nil, fmt.Errorf("%s holds %s", e.Name(), i.Name)
		}
		if err := i.bind(all[i.Name]); err != nil {
			return nil, fmt.Errorf("%s: %w", i.Name, err)
		}
		t[i.Name] = i
	}
	for name := range all {
		if t[name] == nil {
			return nil, fmt.Errorf("%s has no file", name)
		}
	}
	return t, nil
}

func parseInterface(text string) (*iface, error) {
	var node introspect.Node
	if err := xml.Unmarshal([]byte(text), &node); err != nil {
		return nil, err
	}
	const open, end = "<interface", "</interface>"
	from, to := strings.Index(text, open), strings.LastIndex(text, end)
	if len(node.Interfaces) != 1 || from < 0 || to < from {
		return nil, fmt.Errorf("%d interfaces, want 1", len(node.Interfaces))
	}
	return &iface{Interface: node.Interfaces[0], text: text[from : to+len(end)], methods: map[string]*method{}}, nil
}

// bind compares each method with its handler.
func (i *iface) bind(all map[string]any) error {
	for _, m := range i.Methods {
		handler, ok := all[m.Name]
		if !ok {
			return fmt.Errorf("%s has no handler", m.Name)
		}
		bound, err := newMethod(m, reflect.ValueOf(handler))
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		bound.most = max(maxArguments, sizes[i.Name+"."+m.Name])
		i.methods[m.Name] = bound
	}
	if len(all) != len(i.methods) {
		return fmt.Errorf("%d handlers for %d methods", len(all), len(i.methods))
	}
	return nil
}

func newMethod(declared introspect.Method, handler reflect.Value) (*method, error) {
	m := &method{handler: handler}
	var in, out strings.Builder
	for _, a := range declared.Args {
		if a.Direction == "out" {
			out.WriteString(a.Type)
		} else {
			in.WriteString(a.Type)
		}
	}
	m.in, m.out = in.String(), out.String()
	t := handler.Type()
	in.Reset()
	out.Reset()
	for i := 1; i < t.NumIn(); i++ {
		m.args = append(m.args, t.In(i))
		in.WriteString(godbus.SignatureOfType(t.In(i)).String())
	}
	last := t.NumOut() - 1
	for i := range last {
		out.WriteString(godbus.SignatureOfType(onBus(t.Out(i))).String())
	}
	switch {
	case t.NumIn() == 0 || t.In(0) != reflect.TypeFor[*call](), last < 0 || t.Out(last) != reflect.TypeFor[error]():
		return nil, fmt.Errorf("its handler is a %s", t)
	case in.String() != m.in:
		return nil, fmt.Errorf("takes %q in its file and %q in its handler", m.in, in.String())
	case out.String() != m.out:
		return nil, fmt.Errorf("returns %q in its file and %q in its handler", m.out, out.String())
	}
	return m, nil
}

// call decodes the arguments and calls the handler.
func (m *method) call(c *call) (body []byte, err error) {
	if c.header.Signature != m.in {
		return nil, badArgument("%s takes %q, got %q", c.header.Member, m.in, c.header.Signature)
	}
	in := []reflect.Value{reflect.ValueOf(c)}
	var into []any
	for _, t := range m.args {
		p := reflect.New(t)
		into = append(into, p.Interface())
		in = append(in, p.Elem())
	}
	// What is a secret among the arguments is used up when the handler returns,
	// whether or not it came as far as looking at it.
	defer func() {
		for _, p := range into {
			if s, ok := p.(*passed); ok {
				clear(s.Value)
			}
		}
	}()
	if err := wire.Unmarshal(c.header.Order, c.body, into...); err != nil {
		return nil, err
	}
	out := m.handler.Call(in)
	last := len(out) - 1
	if err, _ := out[last].Interface().(error); err != nil {
		return nil, err
	}
	values := make([]any, last)
	for i := range values {
		values[i] = out[i].Interface()
		if e, ok := values[i].(ready); ok {
			return e.bytes(), nil
		}
	}
	return wire.Append(nil, values...)
}

// ready is an only result that is encoded already.
type ready interface {
	bytes() []byte
	of() reflect.Type
}

// encoded is a T, encoded as a whole body.
type encoded[T any] []byte

func (e encoded[T]) bytes() []byte  { return e }
func (encoded[T]) of() reflect.Type { return reflect.TypeFor[T]() }

// onBus returns the type that a result of type t has on the bus.
func onBus(t reflect.Type) reflect.Type {
	if r, ok := reflect.Zero(t).Interface().(ready); ok {
		return r.of()
	}
	return t
}
