//go:build tools

// Package tools lists the commands that e2e/tools/build makes: one import a command, installed under its last path element.
package tools

import (
	_ "github.com/minio/minio"
)
