//go:build tools

// Package tools lists the commands that e2e/tools/build makes. The server's module root is the command etcd.
package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/etcdutl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
