package lab

import (
	"encoding/json"
	"fmt"
	"strings"
)

func objectShape[T any](keys []key[T]) shape {
	props := shape{}
	for _, k := range keys {
		p := shape{"description": k.doc}
		for name, v := range k.shape {
			p[name] = v
		}
		props[k.name] = p
	}
	return shape{"type": "object", "additionalProperties": false, "properties": props}
}

func namedShape[T any](keys []key[T]) shape {
	item := objectShape(keys)
	item["type"] = []string{"object", "null"}
	return shape{
		"type":                 "object",
		"propertyNames":        shape{"pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"},
		"additionalProperties": item,
	}
}

// Schema is the JSON schema (draft 2020-12) of the file, for editors.
func Schema() []byte {
	s := objectShape(specKeys())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "wolffia.yaml"
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // the tables hold nothing that JSON can't
	}
	return append(data, '\n')
}

// Manual describes every key in Markdown, for docs/file.md.
func Manual() []byte {
	var b strings.Builder
	b.WriteString("# The file, wolffia.yaml\n\n<!-- Made from the code by: go test ./internal/cli -run TestDocs -update -->\n\n")
	b.WriteString("`wolffia init` writes a starter, `wolffia schema` prints the JSON schema for editors.\n")
	b.WriteString("Unknown keys are errors; an error names file, line and column. Flags go over the\nenvironment, the environment over the file, the file over the defaults.\n\n")
	b.WriteString("It is a regular file of at most 1 MiB, `wolffia.yaml` in the folder or what `-f` names, and\nnever standard input: paths in it start from its folder, and the lock and a lab in the\nbackground belong to its path.\n\n")
	b.WriteString("```yaml\n" + string(Starter()) + "```\n")
	manual(&b, "The top level", specKeys())
	manual(&b, "An image: `images: {NAME: {...}}`", imageKeys())
	manual(&b, "A file: `files: [{...}]`", fileKeys())
	manual(&b, "A user: `users: [{...}]`", userKeys())
	manual(&b, "A group: `groups: [{...}]`", groupKeys())
	manual(&b, "A network: `networks: {NAME: {...}}`", networkKeys())
	manual(&b, "A VLAN: `vlans: {NUMBER: {...}}`", segmentKeys())
	manual(&b, "DHCP: `dhcp: {...}`", dhcpKeys())
	manual(&b, "A reservation: `reservations: [{...}]`", reservationKeys())
	manual(&b, "A route: `routes: [{...}]`", routeKeys())
	manual(&b, "How a network is joined with the host's: `uplink: {...}`", uplinkKeys())
	manual(&b, "A plug: `plugs: [{...}]`", plugKeys())
	manual(&b, "A machine: `machines: {NAME: {...}}`", machineKeys())
	manual(&b, "A network card: `networks: [{...}]` of a machine", cardKeys())
	manual(&b, "When a machine is ready: `ready: {...}`", readyKeys())
	manual(&b, "A share: `shares: [{...}]`", shareKeys())
	manual(&b, "A disk: `disks: [{...}]`", diskKeys())
	return []byte(b.String())
}

func manual[T any](b *strings.Builder, title string, keys []key[T]) {
	fmt.Fprintf(b, "\n## %s\n\n| key | is | such as |\n| --- | --- | --- |\n", title)
	for _, k := range keys {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", k.name, k.doc, example(k.shape))
	}
}

// example is a value of that shape, or the words it may be.
func example(s shape) string {
	if words, ok := s["enum"].([]string); ok {
		return "`" + strings.Join(words, "`, `") + "`"
	}
	if e, ok := s["examples"].([]string); ok {
		return "`" + e[0] + "`"
	}
	if of, ok := s["items"].(shape); ok {
		if item, quoted := strings.CutPrefix(example(of), "`"); quoted {
			return "`[" + strings.TrimSuffix(item, "`") + "]`"
		}
		return ""
	}
	if either, ok := s["oneOf"].([]shape); ok {
		return example(either[0])
	}
	if low, ok := s["minimum"]; ok {
		return fmt.Sprintf("%v to %v", low, s["maximum"])
	}
	if s["type"] == "boolean" {
		return "`true`, `false`"
	}
	return ""
}

// Starter is the file that wolffia init writes.
func Starter() []byte {
	return []byte(`# A wolffia lab. Try: wolffia run, wolffia run -- uname -a
# All keys: wolffia schema

images:
  base:
    release: ` + DefaultRelease + `              # Debian release
    packages:                    # with all that they depend on
      - busybox-static
      - dropbear-bin
    deps: elf                    # keep only the libraries that programs need
    files:
      - {path: /etc/motd, content: "Hello from wolffia.\n"}
    services: [dropbear]         # started at boot

networks:
  lan: {subnet: 10.0.2.0/24}     # gateway and host .2, name server .3, leases from .15

machines:
  alice:
    image: base
    memory: 128M
    networks: [lan]
    # forwards: ["127.0.0.1:5522:22"]
`)
}
