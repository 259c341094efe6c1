// Programs in Go that keep passwords in the Secret Service, whose own tests are
// run against keyringd.
module github.com/keyringd/keyringd/tools/clients

go 1.26.0

require (
	github.com/99designs/keyring v1.2.2
	github.com/zalando/go-keyring v0.2.8
)

require (
	github.com/99designs/go-keychain v0.0.0-20191008050251-8e49817e8af4 // indirect
	github.com/danieljoos/wincred v1.2.3 // indirect
	github.com/dvsekhvalnov/jose2go v1.5.0 // indirect
	github.com/godbus/dbus v0.0.0-20190726142602-4481cbc300e2 // indirect
	github.com/godbus/dbus/v5 v5.2.2 // indirect
	github.com/gsterjov/go-libsecret v0.0.0-20161001094733-a6f4afe4910c // indirect
	github.com/mtibben/percent v0.2.1 // indirect
	golang.org/x/sys v0.27.0 // indirect
	golang.org/x/term v0.3.0 // indirect
)
