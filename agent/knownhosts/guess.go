package knownhosts

import (
	"fmt"
	"slices"
	"strings"
)

// maxConfig is the largest ssh_config(5) that is looked into for names.
const maxConfig = 1 << 20

// sshArguments are ssh's options that take a value, as getopt(3) knows them.
const sshArguments = "BbcDEeFIiJLlmOoPpQRSWw"

// Guesses returns names that the host may have to which a program with these
// arguments connects, in the forms in which known_hosts has them: what ssh was
// told on its command line, and what its configuration names. Wrong guesses do
// no harm, as a hash tells whether one is right.
func (f *Files) Guesses(argv []string) []string {
	hosts, ports := fromArguments(argv)
	for _, path := range f.Config {
		h, p := fromConfig(path)
		hosts, ports = append(hosts, h...), append(ports, p...)
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	var names []string
	for _, host := range hosts {
		host = strings.ToLower(host)
		names = append(names, host)
		for _, port := range ports {
			if len(names) < maxGuesses {
				names = append(names, fmt.Sprintf("[%s]:%s", host, port))
			}
		}
	}
	return names
}

// fromArguments reads ssh's command line.
func fromArguments(argv []string) (hosts, ports []string) {
	if len(argv) == 0 {
		return nil, nil
	}
	words := argv[1:]
	for i := 0; i < len(words); i++ {
		word := words[i]
		if !strings.HasPrefix(word, "-") || word == "-" {
			host, port := destination(word)
			hosts = append(hosts, host)
			if port != "" {
				ports = append(ports, port)
			}
			break // what follows is the command
		}
		at := strings.IndexAny(word[1:], sshArguments)
		if at < 0 {
			continue
		}
		option, value := word[1+at], word[2+at:]
		if value == "" && i+1 < len(words) {
			i++
			value = words[i]
		}
		switch option {
		case 'p':
			ports = append(ports, value)
		case 'J':
			for hop := range strings.SplitSeq(value, ",") {
				host, port := destination(hop)
				hosts = append(hosts, host)
				if port != "" {
					ports = append(ports, port)
				}
			}
		case 'o':
			key, value, _ := strings.Cut(strings.Replace(value, "=", " ", 1), " ")
			switch strings.ToLower(key) {
			case "hostname", "hostkeyalias":
				hosts = append(hosts, strings.TrimSpace(value))
			case "port":
				ports = append(ports, strings.TrimSpace(value))
			}
		}
	}
	return hosts, ports
}

// destination takes [user@]host or ssh://[user@]host[:port] apart.
func destination(word string) (host, port string) {
	rest, isURL := strings.CutPrefix(word, "ssh://")
	if at := strings.LastIndexByte(rest, '@'); at >= 0 {
		rest = rest[at+1:]
	}
	host = strings.TrimSuffix(rest, "/")
	if i := strings.LastIndexByte(host, ':'); i >= 0 && (isURL || strings.Count(host, ":") == 1) {
		host, port = host[:i], host[i+1:]
	}
	return strings.Trim(host, "[]"), port
}

// fromConfig reads the names in a configuration file, whatever they apply to.
func fromConfig(path string) (hosts, ports []string) {
	data, err := read(path)
	if err != nil || len(data) > maxConfig {
		return nil, nil
	}
	for line := range strings.Lines(string(data)) {
		words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"", r) })
		if len(words) < 2 {
			continue
		}
		switch strings.ToLower(words[0]) {
		case "host", "hostname", "hostkeyalias":
			for _, word := range words[1:] {
				if !strings.ContainsAny(word, "*?!%") {
					hosts = append(hosts, word)
				}
			}
		case "port":
			ports = append(ports, words[1])
		}
	}
	return hosts, ports
}
