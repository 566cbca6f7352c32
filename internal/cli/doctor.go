package cli

import "github.com/spf13/cobra"

func newDoctor(env Env) *cobra.Command { return &cobra.Command{Use: "doctor"} }
