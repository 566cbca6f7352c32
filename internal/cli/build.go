package cli

import "github.com/spf13/cobra"

func newBuild(env Env) *cobra.Command { return &cobra.Command{Use: "build"} }
func newExplain(env Env) *cobra.Command { return &cobra.Command{Use: "explain"} }
