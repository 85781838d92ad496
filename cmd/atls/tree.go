package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// A node is a line of a tree: a name, a value or none, and what belongs to it.
type node struct {
	name     string
	value    any // nil, a string, a number or a boolean
	children []*node
}

func leaf(name string, value any) *node { return &node{name: name, value: value} }

func branch(name string, value any, children ...*node) *node { return &node{name, value, children} }

func (n *node) add(children ...*node) { n.children = append(n.children, children...) }

// print writes the tree for people.
func (n *node) print(w io.Writer, depth int) {
	indent := strings.Repeat("  ", depth)
	if n.value == nil {
		fmt.Fprintf(w, "%s%s\n", indent, printable(n.name))
	} else {
		fmt.Fprintf(w, "%s%s: %s\n", indent, printable(n.name), printable(n.value))
	}
	for _, c := range n.children {
		c.print(w, depth+1)
	}
}

// MarshalJSON encodes a tree as {"name": …, "value": …, "children": […]}, in order.
func (n *node) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name     string  `json:"name"`
		Value    any     `json:"value,omitempty"`
		Children []*node `json:"children,omitempty"`
	}{n.name, n.value, n.children})
}
