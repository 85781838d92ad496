package attack

import "context"

// A Selection says which cells to run.
type Selection struct {
	Scenarios []*Scenario // nil means all
	Modes     []*Mode     // nil means all
	// Mitigation is turned on in every cell. nil means: none, and then each one in
	// the cells in which the attack was accepted. The zero Mitigation is none alone.
	Mitigation *Mitigation
}

// RunAll runs the cells of a selection in the order of tables, and calls each with
// every row. It ends with the first error.
func (l *Lab) RunAll(ctx context.Context, sel Selection, each func(*Row) error) error {
	scenarios, modes := sel.Scenarios, sel.Modes
	if scenarios == nil {
		scenarios = Scenarios
	}
	if modes == nil {
		modes = Modes
	}
	for _, s := range scenarios {
		for _, m := range modes {
			run := func(mit Mitigation) (*Row, error) {
				row, err := l.Run(ctx, s, m, mit)
				if err == nil {
					err = each(row)
				}
				return row, err
			}
			if sel.Mitigation != nil {
				if _, err := run(*sel.Mitigation); err != nil {
					return err
				}
				continue
			}
			row, err := run(Mitigation{})
			if err != nil {
				return err
			}
			for _, mit := range Mitigations {
				if row.Accepted && mit.inapplicable(m) == "" {
					if _, err := run(mit); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}
