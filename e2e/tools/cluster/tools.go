//go:build tools

// Package tools lists the commands that e2e/tools/build makes: one import a command, installed under its last path element.
// The API server says that it is K3s's, for what reads it in the version; the plain one is in ../kubernetes.
package tools

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver" // as +k3s1
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
