package main

import (
	"context"
	"errors"
)

func netNative(context.Context, *bench) (*result, error) { return nil, errors.New("to do") }
func netUML(context.Context, *bench) (*result, error)    { return nil, errors.New("to do") }
func netQEMU(context.Context, *bench) (*result, error)   { return nil, errors.New("to do") }
